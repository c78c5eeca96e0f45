"""The messages in Japanese about what stands beside the training curvature, and about its course in training."""

TEXTS = {
    "outside.title": "検証データ・ノイズ・重みの尺度",
    "outside.held_out": "検証データ {samples} 標本での最大固有値は {held_out}、分析データでは {train} です。両者の上"
    "位 {k} 固有空間の重なりは {overlap} で、偶然なら {chance}、層ごとのエネルギーをそろえた偶然なら {layer_matched}"
    " です。",
    "outside.absent": "検証データが与えられていないため、新しいデータでの曲率は分かりません。",
    "outside.sharpness": "重みに対する相対的な歩幅で測った鋭さは、フィルタ単位の尺度で {filter}、要素単位の尺度で "
    "{entry} です。そのままの固有値 {raw} は、ネットワークの出力が同じでも、層どうしの尺度を変えると変わります。",
    "outside.no_scale": "重みに対する相対的な鋭さ：{reason}。",
    "outside.noise.inputs": "入力にそのばらつきの {level} のノイズを加えると、{data}は {clean} から {noisy} へ、最大"
    "固有値は {calm} から {largest} へ変わります。",
    "outside.noise.labels": "ラベルの {level} を入れ替えると、{data}は {clean} から {noisy} へ、最大固有値は {calm} か"
    "ら {largest} へ変わります。",
    "outside.no_noise": "ノイズへの頑健性は測定していません：{reason}。",
    "outside.data.train": "訓練損失",
    "outside.data.held_out": "検証損失",
    "outside.spectra": "両データでの上位固有値",
    "outside.spectra_alt": "大きい順に並べた固有値。分析データでは {train} から、検証データでは {held_out} から。",
    "outside.losses": "ノイズと{data}",
    "outside.losses_alt": "ノイズなしで {clean}。{told}。",
    "outside.key.train": "分析データ",
    "outside.key.held_out": "検証データ",
    "outside.key.inputs": "入力のノイズ",
    "outside.key.labels": "誤ったラベル",
    "outside.key.none": "なし",
    "outside.what": "同じ重みでの、各データそれぞれのヘッセ行列の固有値と、入力にノイズがある場合やラベルが誤っている"
    "場合の損失です。",
    "outside.null": "ランダムな二つの部分空間の重なりは、次元をパラメータ数で割った値です。",
    "outside.how": "実数の入力には、その標準偏差に対する割合で正規ノイズを加えます。トークンとラベルは別の場所のものと"
    "入れ替えます。損失は複数回の平均です。相対的な鋭さは、重みの尺度で挟んだヘッセ行列の最大固有値です。",
    "outside.not": "ここに挙げた以外の乱れへの頑健性、および平坦な極小ほど汎化するかどうか。",
    "outside.table": "ノイズの下での損失と曲率",
    "outside.column.noise": "ノイズ",
    "outside.column.level": "強さ",
    "outside.column.train": "訓練損失",
    "outside.column.held_out": "検証損失",
    "outside.column.largest": "最大固有値",
    "cost.noise": "入力とラベルのノイズ",
    "cost.sharpness": "相対的な鋭さ",
    "cost.tracking": "学習中の曲率の推移",
    "plot.noise": "ノイズ（ばらつき・ラベルに対する割合）",
    "plot.loss": "損失",
    # through training
    "tracking.threshold": "評価モードで見ると、学習終了時の曲率は、この最適化手法が最後の学習率で不安定になる限界の "
    "{share} です。",
    "tracking.persistence": "上位 {k} 固有空間の {share} は、一つ前の時点から保たれています。",
    "tracking.lines": "限界との比と、空間の持続",
    "tracking.lines_alt": "ステップ {steps}：限界との比 {shares}、持続 {persistence}。",
    "tracking.key.threshold": "最大曲率と最適化手法の限界との比",
    "tracking.key.persistence": "一つ前の時点から保たれた割合",
    "tracking.table": "学習中の曲率の推移",
    "tracking.column.step": "ステップ",
    "tracking.column.value": "λ",
    "tracking.column.of_threshold": "限界との比",
    "tracking.column.persistence": "保たれた空間",
    "tracking.column.participation": "関与する要素",
    "tracking.column.layer": "最も多く含む層",
    "tracking.column.layer_share": "その割合",
    "plot.share_alone": "割合",
}
