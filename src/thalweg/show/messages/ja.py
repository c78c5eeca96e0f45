"""The messages in Japanese."""

TEXTS = {
    # page
    "page.title": "{run}：thalweg レポート",
    "page.skip": "結論へ進む",
    "page.units": "マイクロ秒 ミリ秒 秒 分 時間",
    "page.enlarge": "拡大表示",
    "page.closer": "拡大",
    "page.farther": "縮小",
    "page.whole": "全体を表示",
    "page.close": "閉じる",
    "page.between": "",
    "page.contents": "目次",
    "page.other_language": "English",
    "page.made": "{created} に thalweg {thalweg}、torch {torch} で分析。",
    "page.run": "{model}、パラメータ {parameters} 個、{layers} 層。{optimizer} で {steps} ステップ学習。",
    "page.every": "記録の各行は {every} ステップの和。",
    "page.frozen": "凍結されていて対象外のパラメータ：{frozen}",
    "page.kept.rounded": "更新量は {format} で保存（各成分の誤差は最大 {error}）。",
    "page.kept.sketch": "更新量はスケッチ（層ごとに最大 {width} 個の数）として保存。捕捉エネルギーの"
    "割合は約 {floor} 未満では偶然と区別できず、偶然の水準もそれを含めて計算。",
    "page.damaged": "破損のため除外：{file}（{reason}）",
    "page.gaps": "記録が欠けているステップ：{gaps}",
    "page.foot": "このページは一つのファイルです。スクリプトは表の並べ替えと図の拡大だけに使い、通信は行いません。",
    "reading.what": "何を示す図か",
    "reading.null": "偶然ならどう見えるか",
    "reading.how": "測定方法",
    "reading.not": "この図からは言えないこと",
    "reading.draw": "この図だけを描くには",
    "section.absent": "掲載していません：{reason}",
    "absent.part": "保存された分析結果に「{part}」がありません。",
    # names
    "source.updates": "更新",
    "source.weights": "重み",
    "source.gradients": "勾配",
    "source.eigenvectors": "固有ベクトル",
    "source.chance": "偶然",
    "source.random_walk": "ランダムウォーク",
    "source.random_updates": "独立なランダム更新",
    "stage.early": "序盤",
    "stage.middle": "中盤",
    "stage.late": "終盤",
    "stage.final": "学習終了時",
    "mode.evaluation": "評価",
    "mode.training": "学習",
    "yes": "はい",
    "no": "いいえ",
    # plot labels
    "plot.component": "第{number}主成分（分散の {share}）",
    "plot.components": "主成分の数",
    "plot.component_number": "主成分の番号",
    "plot.eigenvalue_number": "固有値（大きい順）",
    "plot.eigenvector_number": "固有ベクトル（曲率の大きい順）",
    "plot.curvature": "曲率 λ",
    "plot.step": "最適化ステップ",
    "plot.set": "{source} {components}",
    "plot.of_source": "{source}の主成分",
    "plot.share": "ネットワーク全体に占める割合",
    # verdict
    "verdict.title": "測定の結果",
    "verdict.agreement": "一致を確認：ステップ {first}〜{last} では、{source}の上位 {components} 主成分が、"
    "曲率の上位 {k} "
    "固有空間の {captured} を捉えています。偶然なら {uniform}、層ごとのエネルギーをそろえたランダムな方向でも "
    "{layer_matched} です。",
    "verdict.no_agreement": "一致の証拠なし：ステップ {first}〜{last} では、{source}の上位 {components} "
    "主成分が捉えるのは、"
    "曲率の上位 {k} 固有空間の {captured} です。偶然なら {uniform}、層ごとのエネルギーをそろえたランダムな方向なら "
    "{layer_matched} です。",
    "verdict.mixed": "結果は一様でない：ステップ {first}〜{last} では、{source}の上位 {components} 主成分が、"
    "曲率の上位 {k} 固有空間の {captured} を捉えています。偶然の {uniform} は上回りますが、層ごとのエネルギーを"
    "そろえたランダムな方向の {layer_matched} を明確に上回るとは言えません。両者は単に同じ層に集まっているだけかも"
    "しれません。",
    "verdict.none": "結論なし：更新と曲率を比べるには、記録されたステップが足りません。",
    "verdict.sure": "どこまで確かか",
    "verdict.p": "重なり：一様ランダムな方向に対して p {uniform}。層ごとにそろえたランダムな方向に対しては、抽出を"
    "数えて p {layer_matched}。本レポートの全検定に対する Holm 補正後は、二つのうち大きいほうが p {holm}"
    "（抽出の平均と分散に合わせたベータ分布による）。",
    "verdict.p_single": "重なり：p {p}。",
    "verdict.certificate": "固有対：{k} 個中 {converged} 個が許容誤差 {tolerance} まで収束。残差は最大で λ₁ の "
    "{residual}。{meaning}",
    "certificate.complete": "残りの空間も無作為な出発点から探索し、取りこぼしは見つかりませんでした。",
    "certificate.full": "固有対ごとに積を計算して確認しましたが、取りこぼしの有無は調べていません。",
    "certificate.estimate": "まとめて一度の積で確認しましたが、取りこぼしの有無は調べていません。",
    "certificate.other": "それ以上の保証はありません。",
    "verdict.sampling": "標本誤差：データを半分ずつに分けて求めた上位 {k} 固有空間の重なりは {overlap}。λ₁ "
    "は片方の半分で "
    "{first}、同じ方向の曲率をもう片方で測ると {other}。",
    "verdict.no_sampling": "標本誤差：データを分けた再測定は行っていないため、不明です。",
    "verdict.best": "{source}の上位 {components} 主成分はこれを上回り、{captured} を捉えています。",
    # tiles
    "tile.captured": "曲率の上位 {k} 固有空間のうち、{source}の {components} 方向に含まれる割合",
    "tile.captured_note": "偶然なら {uniform}、層ごとにそろえると {layer_matched}",
    "tile.lambda": "最大の曲率 λ₁",
    "tile.lambda_note": "残差 ± {residual}。データの半分ずつでは {first} と {other}",
    "tile.lambda_note_alone": "残差 ± {residual}",
    "tile.layer": "上位 {k} 固有ベクトルのエネルギーのうち、層 {layer} に含まれる割合",
    "tile.layer_note": "この層のパラメータは全体の {parameters}",
    "tile.layer_note_alone": "学習終了時の測定値",
    "tile.cost": "分析全体の所要時間",
    "tile.cost_note": "ヘッセ行列とベクトルの積 {products} 回",
    # path
    "path.title": "学習の軌跡",
    "path.lead": "重みの軌跡を、最も広がりの大きい二つの方向に射影した図です。この二方向で分散の {share} を占めます。"
    "ただし、同じステップ数のランダムウォークでも最初の二方向が {random} を占めます。どのランダムウォークもこのような"
    "滑らかな曲線に見えるため、曲線の形そのものは発見ではありません。",
    "path.weights": "今回の学習",
    "path.random": "同じステップ数のランダムウォーク",
    "path.alt": "第一・第二主成分の平面に描いた、ステップ {last} までの重みの曲線。",
    "path.random_alt": "ランダムウォークの同じ図。こちらも滑らかな曲線になる。",
    "path.start": "始点（ステップ {step}）",
    "path.start_before": "始点（最初のステップの前）",
    "path.end": "終点（ステップ {step}）",
    "path.early": "序盤",
    "path.later": "終盤",
    "path.what": "一点が、ある時点のネットワーク全体を表します。各図の縦軸と横軸は同じ縮尺で、単位は重みの距離です。",
    "path.null": "並べて示したランダムウォークです。各ステップの長さはこの学習と同じで、"
    "方向は互いに独立。同じ手順で処理しています。",
    "path.how": "記録された重みの、平均を引いた主成分分析。更新どうしの内積から計算しています。",
    "path.not": "この曲線から外れた場所の損失や、平面の外の動き。曲がりや折り返しは、"
    "どのランダムウォークにも現れます。",
    # explained variance
    "explained.title": "学習が使った方向の数",
    "explained.lead": "上位 {components} 主成分の累積寄与率は、更新で {updates}、重みで {weights} です。"
    "構造のないランダムウォークでも {random} に達します。",
    "explained.independent": "独立なランダム更新なら {share} です。",
    "explained.total": "累積寄与率",
    "explained.each": "主成分ごとの寄与率",
    "explained.alt": "主成分の数に対する累積寄与率。{components} 個では {shares}。",
    "explained.each_alt": "主成分ごとの寄与率（両対数）。対象は{sources}。",
    "explained.gradients": "勾配は掲載していません：{reason}",
    "explained.what": "分散全体のうち、上位の主成分（または個々の主成分）が占める割合です。",
    "explained.null": "重みは多数の更新の累積なので、破線のランダムウォークと比べます。更新と勾配は、"
    "点線（各ステップの長さが同じで、方向が互いに独立な更新）と比べます。",
    "explained.how": "ステップ {first}〜{last} の主成分分析。勾配は、最適化手法が許す場合に限り、更新から逆算します。",
    "explained.not": "これらの方向が損失に効くかどうか。それを見るには、次の曲率が必要です。",
    # eigenvalues
    "eigenvalues.title": "損失の曲率",
    "eigenvalues.lead": "学習終了時のヘッセ行列の固有値は、上位 {k} 個で {first} から {last} まで分布しています。"
    "大きい固有値は、わずかに動くだけで損失が大きく変わる「急峻な」方向を表します。そこを調整すれば得をする、"
    "という意味ではありません。",
    "eigenvalues.held_out": "このうち最初の方向の曲率を検証データ {samples} 標本で測ると {held_out}、分析データでは "
    "{first} です。",
    "eigenvalues.outside": "検証データでの同じ方向の曲率",
    "eigenvalues.end": "学習終了時（ステップ {step}）",
    "eigenvalues.through": "学習中の推移",
    "eigenvalues.alt": "大きい順に並べた固有値。{first} から {last} まで、残差つき。",
    "eigenvalues.through_alt": "ステップ {steps} における上位の固有値。最大のものは {first} から {last} へ。",
    "eigenvalues.mark": "固有値（白抜きは未収束）",
    "eigenvalues.half": "方向を求めた側の半分のデータでの曲率",
    "eigenvalues.other": "もう半分での曲率",
    "eigenvalues.largest": "最大の固有値",
    "eigenvalues.rest": "二番目以降",
    "eigenvalues.what": "各固有ベクトルに沿った平均損失の曲率。縦棒は残差で、多くは小さすぎて見えません。",
    "eigenvalues.null": "標本による変動です。期待値の意味で、二つの半分は、無限のデータで得られるはずの最大固有値を"
    "挟みます。",
    "eigenvalues.how": "完全再直交化つきランチョス法。標本数 {samples}、{mode}モード、積 {products} 回。",
    "eigenvalues.not": "学習率の上限（学習モードの曲率で決まります）と、重みの尺度への依存性。",
    "eigenvalues.column.number": "番号",
    "eigenvalues.column.value": "λ",
    "eigenvalues.column.residual": "残差",
    "eigenvalues.column.converged": "収束",
    "eigenvalues.column.gap": "間隔",
    "eigenvalues.column.angle": "角度の上限（rad）",
    "eigenvalues.column.half": "半分 A",
    "eigenvalues.column.other": "半分 B",
    "eigenvalues.column.outside": "検証",
    "eigenvalues.table": "学習終了時の固有値",
    # agreement
    "agreement.title": "学習の動きと曲率はどこまで一致するか",
    "agreement.lead": "学習終了時、上位 {k} 固有空間のうち、更新の上位 {components} 主成分は {updates}、重みは "
    "{weights}、"
    "勾配は {gradients} を捉えています。偶然なら {uniform} です。",
    "agreement.panel": "{stage}（ステップ {step}）",
    "agreement.inexact": "バッファは近似値",
    "agreement.alt": "ステップ {step} での捕捉率：{shares}。",
    "agreement.alt_item": "{source}の {components} 主成分で {captured}",
    "agreement.whole": "白抜き：その時点までの全期間",
    "agreement.uniform": "一様ランダムな方向",
    "agreement.matched": "層ごとのエネルギーをそろえたランダムな方向",
    "agreement.what": "上位 {k} 固有ベクトルのうち、上位の主成分が張る空間に含まれる割合です。"
    "左の数字が主成分の数です。",
    "agreement.null": "二種類のランダムな方向と比べます。全 {parameters} パラメータで一様なものと、"
    "層ごとのエネルギーを"
    "そろえたもの。後者のほうが厳しい基準です。",
    "agreement.how": "主成分は記録されたステップから、固有ベクトルは各期間の終わりの重みで計算。p 値は全検定を"
    "まとめて Holm 法で補正しています。",
    "agreement.not": "これらの方向に沿って学習すると得かどうか。主成分を増やせば必ず割合も増えるため、同じ数どうしで"
    "比べてください。",
    "agreement.table": "学習終了時の一致度",
    "agreement.table_all": "全段階の一致度",
    "agreement.column.stage": "段階",
    "agreement.column.source": "対象",
    "agreement.column.window": "期間",
    "agreement.column.components": "主成分数",
    "agreement.column.captured": "捕捉率",
    "agreement.column.uniform": "一様",
    "agreement.column.matched": "層ごとにそろえた基準",
    "agreement.column.p": "p（一様）",
    "agreement.column.p_matched": "p（層ごと）",
    "agreement.column.p_holm": "p（Holm）",
    # heat map
    "heat_map.title": "どの方向がどれに対応するか",
    "heat_map.lead": "最も近い組は、{source}の第{component}主成分と第{row}固有ベクトルで、内積の二乗は {value} です。"
    "ランダムな二方向なら {chance} です。",
    "heat_map.panel": "固有ベクトルと主成分（ステップ {first}〜{last}）",
    "heat_map.alt": "内積の二乗のヒートマップ。固有ベクトル {rows} 本と{source}の主成分 {columns} 本。最大値は "
    "{value}。",
    "heat_map.scale": "内積の二乗（各色の下限）",
    "heat_map.what": "各マスは、固有ベクトルと主成分の内積の二乗です。右端の数字は行の合計で、"
    "その固有ベクトルのうち、"
    "図の主成分全体に含まれる割合を表します。",
    "heat_map.null": "ランダムならマスは {chance}、行の合計は {row_chance}。いずれも図では空白になります。",
    "heat_map.how": "どちらも単位ベクトル。固有ベクトルは学習終了時のもの。符号は任意なので二乗しています。",
    "heat_map.not": "固有値がほぼ等しい固有ベクトルどうしは入れ替わり得ます。その場合は、マスごとではなく、"
    "まとまりとして読んでください。",
    # layers
    "layers.title": "層ごとの分析",
    "layers.lead": "単独での曲率が最も大きいのは層 {layer} で、ネットワーク全体の {share} です。上位 {k} "
    "固有ベクトルの"
    "エネルギーが最も多いのは層 {holds} で {energy}、この層のパラメータは全体の {parameters} です。",
    "layers.some": "図は全 {all} 層のうち曲率の大きい {shown} 層。表には全層を載せています。",
    "layers.curvature": "各層の最大曲率",
    "layers.shares": "各層の占める割合",
    "layers.alt": "深さ順に並べた各層の最大固有値：{values}。ネットワーク全体：{net}。",
    "layers.alt_item": "{layer} {value}",
    "layers.shares_alt": "各層が占めるパラメータ、更新エネルギー、固有ベクトルのエネルギーの割合。"
    "数値は下の表にあります。",
    "layers.own": "その層だけの最大固有値",
    "layers.net": "ネットワーク全体の最大固有値",
    "layers.parameters": "パラメータ数（偶然の水準）",
    "layers.weight_energy": "重みの二乗和",
    "layers.update_energy": "更新の二乗和",
    "layers.eigenvector_energy": "上位固有ベクトルの二乗和",
    "layers.what": "順伝播で通る順に層を並べています。層の曲率は、"
    "その層のパラメータだけを動かしたときの損失の曲率で、"
    "ネットワーク全体の値を超えることはありません。",
    "layers.null": "ランダムな方向のエネルギーは、パラメータ数に比例します。灰色の縦線がその水準です。",
    "layers.how": "各層のブロックに同じ解法を適用しています。残差は表にあります。",
    "layers.not": "どの層から調整すべきか。大きい曲率は「慎重に扱うべき場所」を示します。「投資すべき場所」は"
    "試験で決まります。",
    "layers.table": "全層（深さ順）",
    "layers.column.depth": "深さ",
    "layers.column.layer": "層",
    "layers.column.parameters": "パラメータ数",
    "layers.column.value": "λ₁",
    "layers.column.residual": "残差",
    "layers.column.share": "全体の λ₁ 比",
    "layers.column.update_energy": "更新",
    "layers.column.weight_energy": "重み",
    "layers.column.eigenvector_energy": "固有ベクトル",
    # cost
    "cost.title": "分析にかかったコスト",
    "cost.lead": "所要時間 {total}、ヘッセ行列とベクトルの積 {products} 回。同じ損失の勾配計算は一回 {gradient} "
    "なので、"
    "勾配計算 {gradients} 回分の時間にあたります。",
    "cost.lead_short": "所要時間 {total}、ヘッセ行列とベクトルの積 {products} 回。",
    "cost.memory": "最大メモリ使用量：{memory}。",
    "cost.table": "内訳",
    "cost.column.part": "項目",
    "cost.column.seconds": "時間",
    "cost.spectrum": "固有値と固有ベクトル",
    "cost.layers": "層ごとの分析",
    "cost.trajectory": "記録された軌跡",
    "cost.sampling": "データを分けた再測定",
    "cost.overlaps": "一致度",
    "cost.held out": "検証データ",
    "cost.total": "合計",
    # limits
    "limits.title": "このレポートから言えないこと",
    "limits.trial": "未検証：生産的な方向があるかどうか、すなわち、その方向に沿った学習が、"
    "条件をそろえた対照を上回るか"
    "どうか。試験を行うまでは分かりません。",
    "limits.walk": "次元が低く見えること自体は、何の証拠にもなりません。"
    "ランダムウォークの主成分分析は必ず低次元に見えます。",
    "limits.sampling": "曲率はすべて {samples} 標本（{batches} バッチ）で測定しました。別のデータでは値が変わります。"
    "その程度は、二つの半分の差から分かります。",
    "limits.mode": "損失は{mode}モードで計算しました。ドロップアウトは無効、バッチ統計量は固定です。",
    "limits.point": "固有ベクトルは、ある一点（記載したステップの重み）でのものです。学習が進めば向きが変わります。",
    "limits.loss": "終了時の損失：分析データで {train}。検証データは与えられていません。",
    "limits.loss_both": "終了時の損失：分析データで {train}、検証データで {held_out}。重なりと層ごとの値は前者だけの"
    "ものです。",
    "limits.gradient": "その点での勾配のノルムは {norm} です。極小点ならゼロになります。",
    # again
    "again.title": "再現方法",
    "again.lead": "次のコマンドで、同じシード {seed} の分析を再実行できます。",
    "again.table": "設定",
    "again.column.name": "項目",
    "again.column.value": "値",
}
