"""Exact match and F1 of answers, by the rules of SQuAD (English) and of CMRC 2018 (Chinese); all scores in per cent.

Both rule sets are computed for every data set: a reader of mixed Chinese and English can be judged by either.
The results are those of the official evaluation scripts; where a function departs from them, its docstring says so.

- SQuAD 1.1: Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250
- SQuAD 2.0, with unanswerable questions: Rajpurkar et al. 2018, https://arxiv.org/abs/1806.03822
- CMRC 2018: Cui et al. 2019, https://arxiv.org/abs/1810.07366.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher

from keras_llm.errors import UserError

_SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SQUAD_ARTICLES = re.compile(r"\b(a|an|the)\b")

# The list of the CMRC script. It lacks some marks (【】‘…—); with them, scores would differ from published ones.
_CMRC_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CMRC_HAN = re.compile("([\u4e00-\u9fa5])")
# What the script's English word tokenizer (NLTK) makes of the text between two Chinese characters: 1,000.5 and u.s.a
# stay whole, ASCII punctuation stands alone. English contractions (it's) stay whole here and are split there.
_CMRC_WORD = re.compile(r"""(?:[^\s;@#$%&?!"'()\[\]<>{},.—]|,(?=\d)|\.(?!\s*\Z)|(?<=\w)'(?=\w))+|\S""")


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Whether the prediction is one of the answers, by the SQuAD rules.

    Case, ASCII punctuation, the articles a, an, the, and the amount of white space make no difference.

    Args:
        prediction: the predicted answer, "" for "no answer".
        answers: the accepted answers; none, or only empty ones, for a question that cannot be answered.

    Returns:
        100.0 or 0.0.

    Example:

    >>> exact_match("The Transformer.", ["transformer", "a Transformer network"])
    100.0
    """
    return 100.0 * (_squad_tokens(prediction) in _squad_answers(answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 over the words that prediction and answer share, by the SQuAD 2.0 rules; the best over the accepted answers.

    Args and normalisation as in `exact_match`. Where prediction or answer has no words, both must have none.

    Returns:
        A score between 0.0 and 100.0.

    Example:

    >>> f1("a large language model", ["language model"])
    80.0
    """
    words = _squad_tokens(prediction)
    return max(_word_f1(words, answer) for answer in _squad_answers(answers))


def cmrc_exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Whether the prediction is one of the answers, by the CMRC 2018 rules.

    Case, the punctuation listed by CMRC (full-width and some ASCII) and white space at the ends make no difference.

    Args and returns as in `exact_match`.

    Example:

    >>> cmrc_exact_match("《红楼梦》。", ["红楼梦"])
    100.0
    """
    plain = _cmrc_plain(prediction)
    return 100.0 * any(plain == _cmrc_plain(answer) for answer in answers or [""])


def cmrc_f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 over the longest common run of segments, by the CMRC 2018 rules; the best over the accepted answers.

    A segment is one Chinese character (U+4E00 to U+9FA5) or one word between them (Latin letters, numbers, others).
    The common run is contiguous: the answer's characters in another order score low. Where neither prediction nor
    answer has a segment the score is 100, as in SQuAD 2.0; CMRC has no unanswerable questions and leaves it at 0.

    Args and returns as in `f1`.

    Example: 2 of the prediction's 3 segments are the whole answer.

    >>> cmrc_f1("在1998年。", ["1998年"])
    80.0
    """
    segments = _cmrc_segments(prediction)
    return max(_run_f1(segments, _cmrc_segments(answer)) for answer in answers or [""])


def evaluate_reading(
    records: Iterable[dict], predictions: Mapping[str, Mapping], threshold: float | None = None
) -> dict[str, float]:
    """Scores the answers of a reader.

    Args:
        records: as the data readers return them: `{"id", "answers": [{"text", ...}], "impossible", ...}`.
        predictions: `{id: {"answer": str, "no_answer_score": float, ...}}`; "" is "no answer". The no-answer score may
            be on any scale, higher meaning more likely unanswerable; without it no best thresholds are sought. Other
            keys and ids are ignored.
        threshold: answers whose no-answer score is above it count as ""; None takes the answers as they are. The
            search for the best thresholds needs each question's best span: give spans and a threshold rather than
            answers already blanked.

    Returns:
        A flat dict: `exact_match, f1, cmrc_exact_match, cmrc_f1` (means in per cent) and `total`. Where there are
        unanswerable questions also the same for the answerable and the unanswerable ones, `has_answer_*` and
        `no_answer_*`, and the thresholds of SQuAD 2.0: `best_exact, best_exact_threshold, best_f1, best_f1_threshold`, and in the
        same way `best_cmrc_f1, best_cmrc_f1_threshold`.

    Raises:
        UserError: no records, or a record without a prediction.

    Example:

    >>> records = [{"id": "1", "answers": [{"text": "LSTM", "start": 0}], "impossible": False}]
    >>> evaluate_reading(records, {"1": {"answer": "the LSTM", "no_answer_score": 0.1}})["exact_match"]
    100.0
    """
    records = list(records)
    _check(records, predictions)
    accepted = [[] if record["impossible"] else [answer["text"] for answer in record["answers"]] for record in records]
    chosen = [predictions[record["id"]] for record in records]
    spans = [prediction["answer"] for prediction in chosen]
    no_answer_scores = [prediction.get("no_answer_score") for prediction in chosen]

    answers = spans
    if threshold is not None:
        answers = ["" if score > threshold else span for span, score in zip(spans, no_answer_scores, strict=True)]
    scores = [_scores(answer, gold) for answer, gold in zip(answers, accepted, strict=True)]
    result = _means(scores)
    if all(accepted):
        return result

    for name, answerable in (("has_answer", True), ("no_answer", False)):
        group = [score for score, gold in zip(scores, accepted, strict=True) if bool(gold) == answerable]
        result |= {f"{name}_{metric}": value for metric, value in _means(group).items()} if group else {}
    if None not in no_answer_scores:
        for name, metric in (("exact", exact_match), ("f1", f1), ("cmrc_f1", cmrc_f1)):
            answered = [metric(span, gold) for span, gold in zip(spans, accepted, strict=True)]
            refused = [metric("", gold) for gold in accepted]
            best, at = _best_threshold(answered, refused, no_answer_scores)
            result |= {f"best_{name}": best, f"best_{name}_threshold": at}
    return result


def evaluate_answers(records: Iterable[dict], predictions: Mapping[str, str]) -> dict[str, float]:
    """Scores generated answers (closed book).

    Args:
        records: `{"id", "answers": list[str], ...}`, as the data readers return them.
        predictions: `{id: answer}`.

    Returns:
        `exact_match, f1, cmrc_exact_match, cmrc_f1` (means in per cent) and `total`.

    Raises:
        UserError: no records, or a record without a prediction.

    Example:

    >>> evaluate_answers([{"id": "1", "answers": ["注意力机制"]}], {"1": "注意力"})["cmrc_f1"]
    75.0
    """
    records = list(records)
    _check(records, predictions)
    return _means([_scores(predictions[record["id"]], record["answers"]) for record in records])


_METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact_match": exact_match,
    "f1": f1,
    "cmrc_exact_match": cmrc_exact_match,
    "cmrc_f1": cmrc_f1,
}


def _scores(answer: str, accepted: Sequence[str]) -> dict[str, float]:
    return {name: metric(answer, accepted) for name, metric in _METRICS.items()}


def _means(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    means = {name: math.fsum(score[name] for score in scores) / len(scores) for name in _METRICS}
    return means | {"total": len(scores)}


def _check(records: Sequence[dict], predictions: Mapping) -> None:
    if not records:
        raise UserError("Evaluation needs at least one question. Received: none. Give a data file with questions.")
    missing = [record["id"] for record in records if record["id"] not in predictions]
    if missing:
        raise UserError(
            f"Every question needs a prediction. Received: {len(missing)} of {len(records)} without one, the first is "
            f"{missing[0]!r}. Predict the same data that is evaluated."
        )


def _best_threshold(
    answered: Sequence[float], refused: Sequence[float], no_answer_scores: Sequence[float]
) -> tuple[float, float]:
    """The best mean score over all no-answer thresholds and the threshold that gives it (of several the lowest).

    As in the SQuAD 2.0 script, but questions with equal no-answer scores are taken together: no threshold parts them.
    """
    # Starts with every question refused. The script calls that threshold 0.0, which is right for positive scores only.
    total = best = math.fsum(refused)
    at = min(0.0, math.nextafter(min(no_answer_scores), -math.inf))
    order = sorted(range(len(answered)), key=no_answer_scores.__getitem__)
    for place, i in enumerate(order):
        total += answered[i] - refused[i]
        last_of_its_score = place + 1 == len(order) or no_answer_scores[order[place + 1]] > no_answer_scores[i]
        if last_of_its_score and total > best:
            best, at = total, no_answer_scores[i]
    return best / len(answered), float(at)


def between_scores(threshold: float, no_answer_scores: Sequence[float]) -> float:
    """The middle of the gap between scores in which a threshold lies.

    It parts the same questions, but none of them stands on it: sums in another order, in an export or in another batch, move a
    score by its last digits and must not move it to the other side.

    Example:

    >>> between_scores(0.4, [0.1, 0.4, 0.8]), between_scores(0.8, [0.1, 0.8]), between_scores(0.0, [0.5, 0.8])
    (0.6000000000000001, 1.8, -0.5)
    """
    below = max((score for score in no_answer_scores if score <= threshold), default=None)
    above = min((score for score in no_answer_scores if score > threshold), default=None)
    if below is None or above is None:
        return float(above - 1.0 if below is None else below + 1.0)
    return float(below + above) / 2


def _squad_tokens(text: str) -> list[str]:
    return _SQUAD_ARTICLES.sub(" ", text.lower().translate(_SQUAD_PUNCTUATION)).split()


def _squad_answers(answers: Sequence[str]) -> list[list[str]]:
    """The accepted answers as words; those without any are only kept, as one, if there is no other."""
    return [tokens for tokens in map(_squad_tokens, answers) if tokens] or [[]]


def _cmrc_plain(text: str) -> str:
    return text.lower().strip().translate(_CMRC_PUNCTUATION)


def _cmrc_segments(text: str) -> list[str]:
    # Split with a group: the Chinese characters are at the odd places, the text between them at the even ones.
    parts = _CMRC_HAN.split(_cmrc_plain(text))
    return [segment for i, part in enumerate(parts) for segment in ([part] if i % 2 else _CMRC_WORD.findall(part))]


def _word_f1(prediction: list[str], answer: list[str]) -> float:
    if not prediction or not answer:
        return 100.0 * (prediction == answer)
    return _harmonic((Counter(prediction) & Counter(answer)).total(), len(prediction), len(answer))


def _run_f1(prediction: list[str], answer: list[str]) -> float:
    if not prediction or not answer:
        return 100.0 * (prediction == answer)
    run = SequenceMatcher(None, prediction, answer, autojunk=False).find_longest_match()
    return _harmonic(run.size, len(prediction), len(answer))


def _harmonic(common: int, predicted: int, expected: int) -> float:
    """The harmonic mean of precision common / predicted and recall common / expected."""
    return 200.0 * common / (predicted + expected)
