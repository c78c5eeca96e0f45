"""Japanese: where all eigenvalues lie."""

TEXTS = {
    "density.title": "すべての固有値：残りはどれほど平坦か",
    "density.stiff": "全 {parameters} 個の固有値のうち、{level}（最大固有値の {share}）を超えるのは {low} 個から "
    "{high} 個の間です。",
    "density.unsure": "固有値は全部で {parameters} 個、ここで見つかった最大値は {largest} です。大きい固有値がいくつあ"
    "るかは、この積の回数では分かりません。",
    "density.negative": "見つかった最小値は {smallest} です。少なくとも一つの方向で損失が下向きに曲がっているので、こ"
    "こは極小ではありません。",
    "density.unknown": "お伝えできません：{reason}",
    "density.absent.no_spread": "正の固有値がないか、すべて同じ値です。",
    "density.ranged": "{low}～{high}",
    "density.count": "曲率ごとの固有値の個数",
    "density.levels": "しきい値を超える固有値の個数",
    "density.alt": "曲率ごとの固有値の個数（対数軸）。{smallest} から {largest} まで。",
    "density.levels_alt": "{largest} までの各しきい値を超える固有値の個数と、符号を変えたしきい値を下回る個数。上下の"
    "限界つき。",
    "density.key.above": "付近の（右図ではしきい値を超える）固有値",
    "density.key.below": "符号を変えたしきい値を下回る固有値",
    "density.key.error": "ランダムなベクトルによる誤差（右図では、しきい値を超える個数について方法の限界も含む）",
    "density.key.one": "固有値一個分の高さ",
    "density.key.top": "個別に求めた上位 {k} 個",
    "density.what": "左は、各曲率の付近に固有値がいくつあるか。{width} の幅で平滑化してあり、孤立した固有値は高さ一の"
    "山になります。右は、各しきい値を超える固有値の個数で、平滑化していません。",
    "density.null": "ランダムな対称行列では固有値は一つの塊になり、外れた値は現れません。ニューラルネットワークでは塊"
    "から離れた固有値が現れ、その数はクラス数に近いことがよくあります。",
    "density.how": "確率的ランチョス求積法。ランダムなベクトル {probes} 本、各 {steps} ステップ、積 {products} 回。限"
    "界はチェビシェフ・マルコフ・スティルチェスの不等式により、ベクトルの選び方による標準誤差の二倍だけ上下に広げてあ"
    "ります。個別に求めた固有値が右図の帯に入ることが、確かめになります。",
    "density.not": "ゼロ付近の塊の内訳（このステップ数では見分けられません）。また、平坦な方向が未知のデータにとって重"
    "要かどうか。",
    "cost.density": "固有値の密度",
    "plot.eigenvalues_near": "付近の固有値の個数",
    "plot.eigenvalues": "固有値の個数",
    "plot.level": "曲率のしきい値",
}
