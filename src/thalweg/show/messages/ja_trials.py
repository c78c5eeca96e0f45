"""The messages in Japanese about trials."""

TEXTS = {
    "trial.title": "試験：方向に沿った調整に効果はあるか",
    "trial.untested": "未検証：試験はまだ行っていません。次のコマンドは、計画を書き出し、学習率を調整したうえで、試験に"
    "かかる費用と、効果を見つけられる見込みを示します。この段階では何も判定しません。",
    "trial.untested_short": "未検証：試験はまだ行っていません。このフォルダと対象タスクを指定して thalweg trial plan を"
    "実行してください。",
    "trial.design": "どの条件も同じ重みから始め、同じバッチで学習しました（{steps} ステップ、{batch} 標本ずつ、新しい"
    "シード {seeds} 個）。学習率は条件ごとに検証データの半分で調整し、残りの半分で判定しました。",
    "trial.started": "各条件はこの学習のステップ {step} の後から始め、主成分はステップ {first}〜{last} から"
    "求めました。",
    "trial.kept": "各条件の制限は開始時に求め、全ステップにわたって保ちました。",
    "trial.refreshed": "各条件の制限は、可能なものについては {refresh} ステップごとに求め直しました。",
    "trial.pilot_only": "予備試験だけが済んでおり、まだ何も判定していません。予定の {seeds} シードで損失の {effect} の"
    "効果を見つけられる確率は、少なくとも {power} です。",
    "trial.invest": "{arm}：投資する。条件をそろえたすべての対照よりも、また同じ時間での {incumbent} よりも、検証損失が"
    "下がりました。最小の差は {against} に対するもので、開始時の損失の {lead}（{low}〜{high}）です。",
    "trial.as_good": "{arm}：投資する。条件をそろえたすべての対照を上回り、{saving} 少ない時間で、求められた範囲内で "
    "{incumbent} に並びました。",
    "trial.guard": "{arm}：守る。これらの方向の曲率は、層ごとにそろえたランダムな方向の {stiffness} 倍です。そこだけで"
    "学習しても効果はなく、{behind}を上回りませんでした。",
    "trial.harmful": "{arm}：有害。検証損失が元の {loss}（{low}〜{high}）だけ上がりました。",
    "trial.none": "{arm}：証拠なし。{behind}を偶然以上に上回ったとは言えません。",
    "trial.none_holm": "{arm}：証拠なし。個々の比較では上回りましたが、全条件についての補正後には残りませんでした。",
    "trial.complement_ahead": "{arm} 以外のすべての方向での学習のほうが、開始時の損失の {lead}（{low}〜{high}）だけ"
    "優れていました。",
    "trial.stopped": "{arm} は、見込みがほとんど残っていないため {seeds} シードで打ち切りました。",
    "trial.diverged": "{arm} は {seeds} シード中 {count} シードで発散し、敗北として数えました。",
    "trial.edge": "{arms} の最良の学習率は、試した範囲の端にありました。",
    "trial.doubles": "検証用標本の {share} は訓練用標本と同一です。",
    "trial.cost": "試験には {seconds}、勾配計算 {gradients} 回を要しました。",
    "trial.next": "次の段階（新しいシードで、全ステップの長さの学習）には約 {seconds} かかります。",
    "trial.stop": "計画に従い、展開はここで終わります。",
    "trial.finished": "すべての段階が完了しました。",
    "trial.leads": "{arm} の差",
    "trial.leads_alt": "各対照に対する差（開始時の損失に対する割合）：{told}。",
    "trial.losses": "試験中の検証損失",
    "trial.losses_alt": "開始時 {start}、最終ステップ後 {told}。",
    "trial.key.must": "上回る必要がある相手",
    "trial.key.beside": "参考",
    "trial.key.arm": "試験した条件",
    "trial.key.incumbent": "現行の方法",
    "trial.key.control": "その対照",
    "trial.control.random": "ランダムな方向",
    "trial.control.layer_matched": "層をそろえたランダム",
    "trial.control.gradient_matched": "勾配をそろえたランダム",
    "trial.control.complement": "補空間",
    "trial.control.random_layers": "ランダムな層",
    "trial.control.largest_layers": "最大の層",
    "trial.control.last_layers": "最後の層",
    "trial.in_time": "{against}（同じ時間）",
    "trial.what": "その条件の検証損失が、相手よりどれだけ低く終わったか。シードごとに対にした差で、区間は "
    "{level} です。",
    "trial.null": "ゼロです。対照は同じ本数の方向で、無作為に選んだもの、層ごとのエネルギーをそろえたもの、勾配を同じ"
    "だけ含むものがあります。",
    "trial.how": "タスク自身の最適化手法で一歩進め、その更新を条件に従って制限します。印のある相手すべてに、全条件に"
    "ついての補正後に勝つ必要があります。",
    "trial.not": "シードは一つの開始点からのバッチの順序なので、この学習についてのもので、別の学習には"
    "当てはまりません。",
    "trial.table": "すべての比較",
    "trial.column.arm": "条件",
    "trial.column.against": "相手",
    "trial.column.lead": "差",
    "trial.column.low": "下限",
    "trial.column.high": "上限",
    "trial.column.p": "p",
    "trial.column.must": "必須",
    "trial.comma": "、",
    "trial.yes": "はい",
    "plot.lead": "差（開始時の損失に対する割合）",
    "plot.held_out": "検証損失",
    "plot.trial_step": "試験のステップ",
    "verdict.decided": "{seeds} シードの試験で検証しました。{told}",
    "verdict.word.invest": "{arm}：投資する。検証データで、すべての対照と{incumbent}を上回りました。",
    "verdict.word.guard": "{arm}：守る。損失はこの方向に敏感で、そこだけで学習しても効果はありませんでした。",
    "verdict.word.harmful": "{arm}：有害。検証損失が上がりました。",
    "verdict.word.no evidence": "{arm}：効果があるという証拠はありません。",
    "arm.eigenvectors": "最も曲率の大きい {k} 方向での学習（{name}）",
    "arm.updates": "更新の {k} 主成分での学習（{name}）",
    "arm.weights": "重みの {k} 主成分での学習（{name}）",
    "arm.gradients": "勾配の {k} 主成分での学習（{name}）",
    "arm.singular": "{k} 個の特異方向での学習（{name}）",
    "arm.layers.top": "優先度の高い {k} 層だけの学習（{name}）",
    "arm.other": "{name}",
    "limits.tested": "試験が示すのは、一つの開始点から {steps} ステップの、試験した条件についてだけです。ほかの方向に"
    "ついては何も言えません。",
}
