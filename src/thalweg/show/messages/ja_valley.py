"""The messages in Japanese about the shape of the valley."""

TEXTS = {
    "plot.distance": "最後の重みからの距離",
    "path.surface": "その下の線は、最後の重みを通り二つの方向が張る平面での訓練損失の等高線です。{low} から {high} "
    "まで、隣どうしは {ratio} 倍の関係にあります。",
    "path.lines": "訓練損失の等高線",
    "path.surface_not": "軌跡の途中の点での損失。途中の点は、等高線を描いた、最後の重みを通る平面からは外れています。",
    "valley.title": "谷の形",
    "valley.lead": "学習が終わった地点での訓練損失は {here} です。最後の区間で重みが進んだ道のりの半分にあたる距離 "
    "{reach} の範囲で、最も硬い方向では {stiff} まで、無作為な方向では {random} まで上がります。",
    "valley.held_out": "検証データでは、その地点の損失は {here_held_out} です。最も硬い方向に沿って損失が最小になる"
    "のは距離 {away} のところで、{least} です。",
    "valley.held_out_here": "検証データでは、その地点の損失は {here_held_out} で、最も硬い方向に沿ってこれより低いと"
    "ころはありません。",
    "valley.alt": "谷を横切る損失。最大値：{told}。",
    "valley.stiff": "最も硬い方向",
    "valley.drift": "ドリフト",
    "valley.random": "無作為な方向",
    "valley.what": "重みを一つの方向だけに動かしたときの損失です。ゼロは学習が終わった地点です。",
    "valley.null": "無作為な方向です。これだけ多くの方向の中では、ほとんどの方向がこのように見えます。",
    "valley.how": "一本の線につき {points} 点の損失を、評価モードで、すべての標本について求めました。",
    "valley.not": "曲がった経路。谷底はまっすぐではなく、直線はそこから外れます。",
    "cost.valley": "谷の形",
}
