"""Small texts of our own, in several scripts."""

from __future__ import annotations

ENGLISH = (
    "The miller's daughter counted the stones along the river. She had nine of them, and the ninth was warm.\n"
    "“Whose is it?” asked the heron. “Nobody's,” she said, “or mine, until somebody asks for it politely.”\n\n"
    "In the evening the wind turned, and the mill wheel went the other way round, and all the flour became wheat.\n"
    "So they ate the wheat, and the bread they had meant to bake, they dreamt of – every loaf of it …\n"
)
GERMAN = (
    "Der Müller zählte die Säcke und vergaß den zwölften. Draußen stand ein müder Esel und hörte zu, "
    "während über dem Fluß die Störche kreisten. „Schön“, sagte er, „daß größere Mühlen auch nur Körner mahlen.“ "
    "Später, als es dämmerte, trug er das übrige Mehl zum Bäcker, der fünf süße Brötchen dafür gab.\n"
)
FRENCH = (
    "La meunière comptait les pierres près de la rivière ; la neuvième était chaude, comme si l’été s’y cachait. "
    "« À qui est-elle ? » demanda le héron. « À personne, répondit-elle, où à moi, jusqu’à ce qu’on la réclame. » "
    "Le soir, le vent changea, la roue tourna à l’envers et toute la farine redevint du blé. Ça sentait la forêt.\n"
)
POLISH = (
    "Młynarz liczył worki i zapomniał o dwunastym. Na podwórzu stał zmęczony osioł i słuchał, a nad rzeką krążyły "
    "bociany. „Pięknie”, powiedział, „że i większe młyny mielą tylko ziarno”. Później, gdy zapadł zmierzch, zaniósł "
    "resztę mąki do piekarza, który dał mu za nią pięć słodkich bułek. Księżyc świecił już nad łąką, żaby rechotały.\n"
)
RUSSIAN = (
    "Дочь мельника считала камни у реки. Их было девять, и девятый был тёплым. «Чей он?» — спросила цапля. "
    "«Ничей, — сказала она, — или мой, пока кто-нибудь вежливо его не попросит». Вечером ветер переменился, колесо "
    "мельницы пошло в другую сторону, и вся мука снова стала пшеницей. Тогда они съели пшеницу, а хлеб им приснился.\n"
)
CHINESE = (
    "磨坊主的女儿在河边数石头，一共九块，第九块是暖的。鹭鸶问：“这是谁的？”她说：“谁的也不是，或者是我的，"
    "直到有人客气地来要。”傍晚风向变了，水车倒着转，所有的面粉又变成了麦子。\n"
    "于是他们吃了麦子，而本来要烤的面包，就在梦里一个一个地吃。月亮升起来，照着河面，也照着那块暖暖的石头。\n"
    "第二天清早，村里的人都来看这件奇事，有人笑，有人叹气，老人说，水总是往低处流，话总是往远处传。\n"
)
TRADITIONAL = (
    "磨坊主的女兒在河邊數石頭，一共九塊，第九塊是暖的。鷺鷥問：「這是誰的？」她說：「誰的也不是，或者是我的，"
    "直到有人客氣地來要。」傍晚風向變了，水車倒著轉，所有的麵粉又變成了麥子。\n"
    "於是他們吃了麥子，而本來要烤的麵包，就在夢裡一個一個地吃。月亮升起來，照著河面，也照著那塊暖暖的石頭。\n"
    "第二天清早，村裡的人都來看這件奇事，有人笑，有人嘆氣，老人說，水總是往低處流，話總是往遠處傳。\n"
)
JAPANESE = (
    "粉屋の娘は川のほとりで石を数えていました。全部で九つ、九つ目はあたたかいのです。「だれのもの？」とサギがたずねました。"
    "「だれのものでもないわ。だれかがていねいにたずねてくるまでは、わたしのもの」と娘は答えました。\n"
    "夕方になると風向きが変わり、水車はさかさまにまわり、小麦粉はみんな麦にもどってしまいました。\n"
    "それでみんなは麦を食べ、焼くはずだったパンは夢の中でひとつずつ食べたのです。月がのぼり、川面を照らしました。\n"
)
KOREAN = (
    "방앗간 집 딸은 강가에서 돌을 세었습니다. 모두 아홉 개였는데 아홉 번째 돌은 따뜻했습니다. “누구의 것이니?” 하고 "
    "왜가리가 물었습니다. “누구의 것도 아니에요. 누군가 공손하게 달라고 할 때까지는 제 것이지요.” 하고 딸이 "
    "말했습니다.\n저녁이 되자 바람이 바뀌어 물레방아가 거꾸로 돌았고, 밀가루는 모두 다시 밀이 되었습니다. 그래서 "
    "사람들은 밀을 먹었습니다.\n"
)
# What vocabularies stumble over.
TRICKY = [
    "",
    " ",
    "▁",
    "▁ ▁▁  ▁",
    "a▁b",
    "\0",
    "a\0b",
    "\r",
    "a\r\nb",
    "\t\ttab",
    "\n\n\n",
    " \n \n",
    "    four spaces    ",
    "\u0301",
    "e\u0301",
    "👩‍👩‍👧‍👦 and 🏳️‍🌈",
    "<bos>",
    "<unk><eos><pad>",
    "<0x41>",
    "<s></s>",
    "\ue000\uf8ff",
    "\ufffe\uffff\U0010ffff",
    "\ufeff",
    "\u2585 \u2047",
    "ﬁ Ａ ½ \u00a0 \u3000 \u200b \u2028",
    CHINESE,
]
