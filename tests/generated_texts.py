"""Texts to compare tokenizers on: Chinese, English, code, emoji and what breaks tokenizers, the same in every process."""

import random

WORDS = (
    "the of and language model tokenizer Attention don't it's naïve café über São façade 3.14159 1234567 COVID-19 "
    "extraordinarily U.S.A. e-mail état ΣΟΦΟΣ Привет мир السلام שלום नमस्ते こんにちは カタカナ 한국어 ไทย Ａｂｃ １２３"
).split()
CHINESE = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种"
    "面而方后多定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本"
    "去把性好应开它合还因由其些然前外天政四日那社义事平形相全表间样与关各重新线内数正心反你明看原又么利比"
    "或但质气第向道命此变条只没结解问意建月公无系军很情者最立代想已通并提直题党程展五果料象员革位入常文总"
    "次品式活设及管特件长求老头基资边流路级少图山统接知较将组见计别她手角期根论运农指几九区强放决西被干做"
    "必战先回则任取据处队南给色光门即保治北造百规热领七海口东导器压志世金增争济阶油思术极交受联什认六共权"
    "龘靐齉"
)
CODE = (
    "def f(x):",
    "    return x ** 2  # comment",
    "for (int i = 0; i < n; ++i) {",
    "a[i]->b.c();",
    "import numpy as np",
    "<div class='x'>",
    "SELECT * FROM t WHERE id=1;",
    "\t\tif x != y and not z:",
    'print(f"{x!r:>10}")',
    "https://example.org/a?b=c&d=%20",
    "0x1F600",
    "snake_case camelCase",
)
SIGNS = (
    "🙂 👩‍👩‍👧 🇨🇳 ❤️ 𝔘𝔫𝔦 € ½ № ﬁ … — “” ‘’ 《》 、 。 "
    "， ！ ？ （） 「」 ［SEP］ ## ##ing ½ \u200b \u3000 \xa0 \ufeff \u0301 e\u0301 한 \ufffd"
).split(" ")
SPACES = (" ", " ", " ", " ", "", "", "  ", "\n", "\t", "\n\n")


def generated_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 0 to about 25 parts each."""
    dice = random.Random(seed)
    makers = (
        lambda: dice.choice(WORDS),
        lambda: "".join(dice.choices(CHINESE, k=dice.randrange(1, 9))),
        lambda: dice.choice(CODE),
        lambda: dice.choice(SIGNS),
        lambda: "".join(chr(dice.randrange(33, 0x2FF)) for _ in range(3)),
        lambda: str(dice.randrange(10 ** dice.randrange(1, 12))),
    )
    return [
        "".join(dice.choice(makers)() + dice.choice(SPACES) for _ in range(dice.randrange(26))) for _ in range(count)
    ]
