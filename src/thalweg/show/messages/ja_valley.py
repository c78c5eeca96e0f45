"""The messages in Japanese about the shape of the valley."""

TEXTS = {
    "plot.distance": "学習終了時の重みからの距離",
    "path.surface": "軌跡の下に重ねた線は、学習終了時の重みを通り、この二方向が張る平面上での訓練損失の等高線です。"
    "{low} から {high} まで、{ratio} 倍ごとに引いています。",
    "path.lines": "訓練損失の等高線",
    "path.surface_not": "軌跡の途中の点での損失。途中の点は、等高線を描いた平面（学習終了時の重みを通る平面）の上に"
    "はありません。",
    "valley.title": "谷の形",
    "valley.lead": "学習終了時の訓練損失は {here} です。最後の区間での正味の移動距離の半分にあたる {reach} の範囲で"
    "重みを動かすと、損失は、最も急峻な方向では {stiff} まで、ランダムな方向では {random} まで上がります。",
    "valley.held_out": "検証データでは、その地点の損失は {here_held_out} です。最も急峻な方向に沿って見ると、距離 "
    "{away} の点で最小の {least} になります。",
    "valley.held_out_here": "検証データでは、その地点の損失は {here_held_out} で、最も急峻な方向に沿ってこれより低い"
    "点はありません。",
    "valley.alt": "谷を横切る損失。最大値：{told}。",
    "valley.stiff": "最も急峻な方向",
    "valley.drift": "ドリフト",
    "valley.random": "ランダムな方向",
    "valley.what": "重みを一つの方向だけに動かしたときの損失です。ゼロは学習が終わった地点です。",
    "valley.null": "ランダムな方向です。パラメータの数だけ次元があるため、ほとんどの方向はこれと同じように見えます。",
    "valley.how": "一本の線につき {points} 点の損失を、評価モードで、すべての標本について求めました。",
    "valley.not": "曲がった経路に沿った損失。谷底はまっすぐではないため、直線で進むと谷底から外れます。",
    "cost.valley": "谷の形",
}
