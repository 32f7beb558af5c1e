"""Our own small bilingual data, in the package, so that a fresh clone works alone.

Paragraphs in Chinese and English on language models from theory to practice, with questions in SQuAD form. `dev`
asks about the same paragraphs in other words. Closed-book pairs come from the same questions.
"""

from pathlib import Path

DIRECTORY = Path(__file__).with_name("bundled")


def bundled(split: str) -> list[Path]:
    """The files of a split, "train" or "dev": one in Chinese, one in English.

    Example:

    >>> [path.name for path in bundled("dev")]
    ['dev.en.json', 'dev.zh.json']
    """
    return sorted(DIRECTORY.glob(f"{split}.*.json"))
