"""The messages in Japanese of the first page, for those who decide, and of the sentences for a meeting."""

TEXTS = {
    "decision.title": "判断",
    "decision.undecided": "未決：特定の方向や層での調整に効果があるかどうかは、まだ試験していません。",
    "decision.invest": "投資する：{arms}は、条件をそろえたどの対照よりも、また同じ時間での{incumbent}よりも、検証損"
    "失を大きく下げました。",
    "decision.keep": "今の学習方法を続ける：試した {count} 通りのうち、条件をそろえた対照と{incumbent}の両方を上回っ"
    "たものはありませんでした。",
    "decision.keep_open": "今のところ変える根拠はない：試した {count} 通りのうち、条件をそろえた対照と{incumbent}の"
    "両方を上回ったものはありませんでした。ただし、効果がないと言い切るには試験の規模が小さすぎます。",
    "decision.invest_as_good": "投資する：{arms}は、より短い時間で、求められた範囲内で{incumbent}に並び、条件をそろ"
    "えたどの対照よりも検証損失を大きく下げました。",
    "decision.stop": "この方法は進めない：{arms}は検証損失を悪化させました。",
    "decision.findings": "分かったこと",
    "decision.places": "どこに手をかけ、どこには手をかけないか",
    "decision.costs": "かかった費用と次の段階",
    "decision.unknown": "分かっていないこと",
    "decision.certainty": "確かさ：{word}。",
    "certainty.firm": "高い",
    "certainty.fair": "中程度",
    "certainty.open": "未確定",
    "finding.trial.invest": "新しいシード {seeds} 個での試験で、投資に値する方法が見つかりました。",
    "finding.trial.none": "新しいシード {seeds} 個での試験では、試した {arms} 通りの中に投資に値する方法はありません"
    "でした。",
    "finding.trial.harmful": "新しいシード {seeds} 個での試験で、試した方法は検証損失を悪化させることが分かりました。",
    "finding.trial.p": "試したすべての方法について補正した後の p {p}。",
    "finding.trial.power": "{effect} の効果があれば、{power} の確率で見つけられる試験でした。",
    "finding.agreement.agreement": "重みは、損失の曲率が大きい方向に動いています。{source}の上位 {components} 主成分"
    "が、曲率の上位 {k} 固有空間の {captured} を捉えています。",
    "finding.agreement.mixed": "重みは、損失の曲率が大きい層で動いていますが、方向まで同じとは限りません。{source}の"
    "上位 {components} 主成分が、曲率の上位 {k} 固有空間の {captured} を捉えています。",
    "finding.agreement.no agreement": "重みは、損失の曲率が大きい方向には動いていません。{source}の上位 {components}"
    " 主成分が捉えるのは、曲率の上位 {k} 固有空間の {captured} です。",
    "finding.agreement.why": "偶然なら {uniform}、層ごとのエネルギーをそろえたランダムな方向なら {layer_matched} で"
    "す。データを半分ずつに分けて求めた上位固有空間の重なりは {overlap} です。",
    "finding.agreement.why_short": "偶然なら {uniform}、層ごとのエネルギーをそろえたランダムな方向なら "
    "{layer_matched} です。データを半分ずつに分けた再測定は行っていません。",
    "finding.held_out.other": "検証データでは損失の曲率が異なります。最大曲率は、訓練データの {train} に対して検証デ"
    "ータでは {held_out} で、両者の上位 {k} 固有空間の重なりは {overlap} です。",
    "finding.sampling.other": "曲率は標本に左右されます。データの半分で求めた λ₁ は {half}、同じ方向を残りの半分で測"
    "ると {other} です。",
    "finding.held_out.alike": "検証データでも損失の曲率は同程度です。最大曲率は、訓練データの {train} に対して検証デ"
    "ータでは {held_out} で、両者の上位 {k} 固有空間の重なりは {overlap} です。",
    "finding.sampling.alike": "曲率は標本にほとんど左右されません。データの半分で求めた λ₁ は {half}、同じ方向を残り"
    "の半分で測ると {other} です。",
    "finding.halves": "訓練データを二つに分けると、同じ方向の曲率は {half} と {other} です。",
    "finding.no_halves": "データを半分ずつに分けた再測定は行っていません。",
    "finding.sampling.why": "データを半分ずつに分けて求めた上位 {k} 固有空間の重なりは {overlap} です。",
    "finding.drift.found": "重みは一つの方向に動き続けており（ドリフト）、その動きが更新のエネルギーの {share} を占"
    "めます。",
    "finding.drift.none": "各ステップのノイズだけでは説明できない一方向の動き（ドリフト）は見つかりませんでした。",
    "finding.drift.untested": "一方向の動き（ドリフト）があるかどうかは検定できませんでした。",
    "finding.drift.why": "ステップ {first}〜{last}。自己相関のあるノイズを想定した検定で p {p}。",
    "action.invest": "投資する",
    "action.guard": "守る",
    "action.undecided": "未決",
    "action.leave": "手をかけない",
    "action.invest.means": "試験で、手をかける効果が確かめられた",
    "action.guard.means": "わずかな変化が損失に響く場所。変更を避け、量子化は最後にする",
    "action.undecided.means": "試験をしなければ分からない",
    "action.leave.means": "圧縮しても悪影響が小さい、または手間に見合わない",
    "place.layer": "層 {name}",
    "place.first": "試験はここから",
    "place.trial.invest": "試験で効果が確かめられた",
    "place.trial.leave": "試験で検証損失を悪化させた",
    "place.compression.guard": "パラメータ数の割に、ノイズを加えたときの損失の増加が他の層より大きい（圧縮の順番は "
    "{of} 層中 {rank} 番目）",
    "place.compression.leave": "パラメータ数の割に、ノイズを加えたときの損失の増加が他の層より小さい（圧縮の順番は "
    "{of} 層中 {rank} 番目）",
    "place.stiff": "{count} 本中 {many} 本が急峻で、わずかに動かすだけで損失が大きく変わる",
    "place.stiff_one": "急峻で、わずかに動かすだけで損失が大きく変わる",
    "place.sloppy_one": "平坦で、学習でも動いていない",
    "place.sloppy": "{count} 本中 {many} 本が平坦で、学習でも動いていない",
    "place.drift": "最良の一歩を進むと、検証損失は {rise} 上がると予測される",
    "place.nothing.layer": "圧縮の順番を確定できない（推定では {of} 層中 {rank} 番目）",
    "place.nothing.directions": "最良の一歩で、訓練損失は {gain} 下がると予測される",
    "place.nothing.held_out": "最良の一歩による変化の予測は、訓練損失が {gain}、検証損失が {gain_held_out}",
    "decision.stop_mark": "。",
    "trial.word.invest": "投資する",
    "trial.word.guard": "守る",
    "trial.word.harmful": "有害",
    "trial.word.no evidence": "証拠なし",
    "arm.full": "全パラメータでの学習",
    "place.tried": "試験の結果：{word}",
    "group.Hessian eigenvectors": "最も急峻な方向（{count} 本）",
    "group.PCA of updates": "更新の主成分（{count} 本）",
    "group.PCA of gradients": "勾配の主成分（{count} 本）",
    "group.PCA of weights": "重みの主成分（{count} 本）",
    "group.SVD of weights": "特異方向（{count} 本）",
    "group.drift": "ドリフト",
    "group.gradient": "勾配",
    "decision.column.where": "場所",
    "decision.column.action": "どうするか",
    "decision.column.why": "理由",
    "decision.spent.analysis": "分析にかかったのは {seconds}、ヘッセ行列との積は {products} 回です。",
    "decision.spent.trial": "試験にかかったのは {seconds}、勾配計算は {gradients} 回です。",
    "decision.next.trial": "試験には、このマシンで約 {seconds} かかります。まず計画を立ててください。費用と、どの程"
    "度の効果なら見つけられるかが分かります。この段階では何も判定しません。",
    "decision.next.trial_short": "次は試験です。まず計画を立ててください。費用と、どの程度の効果なら見つけられるかが"
    "分かります。この段階では何も判定しません。",
    "decision.next.confirm": "次は新しいシードでの確認で、約 {seconds} かかります。",
    "decision.next.full": "次は、同じことを全ステップの長さで試す段階で、約 {seconds} かかります。",
    "decision.next.larger": "求める最小の効果を {power} の確率で見つけるには、{seeds} シードの試験が必要です。",
    "decision.next.far_larger": "求める最小の効果を {power} の確率で見つけるには、現実的な数を超えるシードが必要です"
    "。学習を長くすれば、ばらつきは小さくなります。",
    "decision.next.none": "計画に従い、ここで終わります。費用に見合う次の段階はありません。",
    "decision.next.held_out": "試験には、学習に使っていないデータが必要です。Task(..., held_out=batches) を与えて、"
    "もう一度分析してください。",
    "decision.next.done": "すべての段階を通過しました。試した方法を採用できます。",
    "unknown.pays": "どこかに手をかけて効果があるかどうか。これは試験をしなければ分かりません。",
    "unknown.longer": "{steps} ステップより先や、別の開始点ではどうなるか。",
    "unknown.power": "{effect} の効果があるかどうか。この試験でそれを見つけられる確率は {power} にとどまります。",
    "unknown.other_run": "同じモデルを学習し直しても同じ方向が現れるか。これは一回の学習の結果です。",
    "unknown.held_out": "学習に使っていないデータではどう見えるか。検証データは与えられていません。",
    "unknown.samples": "別の標本では損失の曲率がどうなるか。このデータを二つに分けると {half} と {other} になります。",
    "meeting.title": "会議でそのまま使える文",
    "meeting.lead": "ここに出る数値は、すべてこの学習で実際に測ったものです。",
    "meeting.purpose": "{parameters} 個のパラメータの中から、少ない手間で大きな効果が得られる方向と層、そして手をか"
    "けても無駄になる方向と層を探しました。",
    "meeting.cost": "分析には、自社のマシン一台で {analysis} かかりました。データは外部に出ていません。",
    "meeting.cost_trial": "自社のマシン一台で、分析に {analysis}、試験に {trial} かかりました。データは外部に出てい"
    "ません。",
    "meeting.guard": "{where} は変更を避け、圧縮は最後にするべきです。わずかな変化が損失に最も大きく響く層です。",
    "meeting.leave": "{where} は、先に圧縮して構いません。",
    "meeting.undecided": "これらの方向に手をかけて効果があるかは、まだ分かりません。試験をすれば分かります。",
    "meeting.undecided_cost": "これらの方向に手をかけて効果があるかは、まだ分かりません。約 {seconds} かけて試験をす"
    "れば分かります。",
    "meeting.invest": "新しいシード {seeds} 個での試験で、{arms}に効果がありました。検証損失は開始時の値の {gain} に"
    "あたる分だけ下がり、下がり幅は、条件をそろえたどの対照よりも、また同じ時間での{incumbent}よりも大きくなりました"
    "。",
    "meeting.invest_as_good": "新しいシード {seeds} 個での試験で、{arms}に効果がありました。より短い時間で、求められ"
    "た範囲内で{incumbent}に並び、条件をそろえたどの対照よりも優れていました。",
    "meeting.keep": "新しいシード {seeds} 個での試験では、試した {count} 通りのうち、条件をそろえた対照と今の学習方"
    "法の両方を上回ったものはありませんでした。",
    "meeting.stop": "新しいシード {seeds} 個での試験では、試した方法は検証損失を悪化させました。",
    "meeting.next": "次の段階には約 {seconds} かかります。",
    "meeting.condition.undecided": "学習にも学習率などの調整にも使っていないデータで、{incumbent}とすべての対照を上"
    "回る方法があった場合に限り、先に進みます。",
    "meeting.condition.invest": "全ステップの長さで学習しても優位が保たれる限り続け、優位がなくなれば中止します。",
    "meeting.condition.keep": "モデル、データ、目的のいずれかが変わらない限り、これ以上の費用はかけません。",
    "meeting.condition.keep_open": "今は何も変えません。より大きな試験に費用をかける価値があるかを、次に検討します。",
    "meeting.condition.stop": "モデル、データ、目的のいずれかが変わらない限り、これ以上の費用はかけません。",
}
