"""Japanese: where all eigenvalues lie."""

TEXTS = {
    "density.title": "すべての固有値：残りはどれほど平坦か",
    "density.stiff": "全 {parameters} 個の固有値のうち、{level} を超えるのは約 {stiff} 個（標準誤差 {error}）です。そ"
    "れ以外のほとんどの方向では、少し動いても損失はほぼ変わりません。",
    "density.negative": "−{least} を下回るのは約 {negative} 個（標準誤差 {error}）、見つかった最小値は {smallest} です"
    "。その方向では損失が下向きに曲がっているので、ここは厳密な極小ではありません。",
    "density.unknown": "測定していません：{reason}",
    "density.count": "曲率ごとの固有値の個数",
    "density.levels": "しきい値を超える固有値の個数",
    "density.alt": "曲率ごとの固有値の個数（対数軸）。{smallest} から {largest} まで。{parameters} 個のほとんどがゼロ"
    "付近に集まり、右側に孤立した固有値が並びます。",
    "density.levels_alt": "各しきい値を超える固有値の個数（両対数）。{level} を超えるのは約 {stiff} 個。",
    "density.key.above": "付近の（右図ではしきい値を超える）固有値",
    "density.key.below": "しきい値の符号を変えた値を下回る固有値",
    "density.key.error": "標準誤差の二倍の幅",
    "density.key.one": "固有値一個分の高さ",
    "density.key.top": "個別に求めた上位 {k} 個",
    "density.what": "左は、各曲率の付近に固有値がいくつあるか。{width} の幅で平滑化してあり、孤立した固有値は高さ一の"
    "山になります。右は、各しきい値を超える固有値の個数で、平滑化していません。",
    "density.null": "ランダムな対称行列では固有値は一つの塊になり、外れた値は現れません。ニューラルネットワークでは塊"
    "から離れた固有値が現れ、その数はクラス数に近いことがよくあります。帯はランダムなベクトルの選び方による誤差です。",
    "density.how": "確率的ランチョス求積法。ランダムなベクトル {probes} 本、各 {steps} ステップ、積 {products} 回。個"
    "別に求めた固有値が右図の線に乗ることが、確かめになります。",
    "density.not": "ゼロ付近の塊の内訳（このステップ数では見分けられません）。また、平坦な方向が未知のデータにとって重"
    "要かどうか。",
    "cost.density": "固有値の密度",
    "plot.eigenvalues_near": "付近の固有値の個数",
    "plot.eigenvalues": "固有値の個数",
    "plot.level": "曲率のしきい値",
}
