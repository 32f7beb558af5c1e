"""Modified Kneser-Ney against a slow twin over dictionaries, written from the paper, and against numbers by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.errors import UserError
from keras_llm.models.kneser_ney import ABSENT, FALLBACK, discounts_of, kneser_ney

PAD, UNKNOWN, START, END = 0, 1, 2, 3
ENGLISH = ["the cat sat on the mat", "the dog sat on the cat", "a cat and a dog", "the cat", "", "the mat"]
CHINESE = ["床前明月光", "疑是地上霜", "举头望明月", "低头思故乡", "海上生明月", "明月"]


def documents(texts, split):
    tokens = sorted({token for text in texts for token in split(text)})
    ids = {token: i for i, token in enumerate(tokens, 4)}
    return [[START, *(ids[token] for token in split(text)), END] for text in texts], 4 + len(tokens)


def flat(docs, dtype="int32"):
    return np.array([token for doc in docs for token in doc], dtype), np.cumsum([0, *map(len, docs)])


class Twin:
    """p(token | context), from tuples and Counter-like dictionaries; `children` are those stored below a context."""

    def __init__(self, docs, vocabulary_size, order, min_count=1):
        self.size, self.order, self.min_count = vocabulary_size, order, min_count
        self.seen, left = {}, {}
        for doc in docs:
            for end in range(1, len(doc) + 1):
                for k in range(1, min(order, end) + 1):
                    gram = tuple(doc[end - k : end])
                    self.seen[gram] = self.seen.get(gram, 0) + 1
                    left.setdefault(gram[1:], set()).add(gram[0])
        self.weight = {
            g: n if len(g) == order or g[0] == START else len(left[g]) for g, n in self.seen.items() if g[-1] != START
        }
        self.discounts, self.children = {}, {}
        for gram in self.weight:
            self.children.setdefault(gram[:-1], []).append(gram)
        for k in range(1, order + 1):
            values = [n for g, n in self.weight.items() if len(g) == k]
            n1, n2, n3, n4 = (values.count(i) for i in (1, 2, 3, 4))
            found = FALLBACK
            if n1 * n2 * n3 * n4:
                y = n1 / (n1 + 2 * n2)
                found = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
            self.discounts[k] = found if min(found) > 0 else FALLBACK

    def stored(self, gram):
        return gram in self.seen and (len(gram) < 3 or self.seen[gram] >= self.min_count)

    def __call__(self, token, context):
        if token in (PAD, START):
            return 0.0
        children = self.children.get(context, [])
        total = sum(self.weight[gram] for gram in children)
        below = self(token, context[1:]) if context else 1 / (self.size - 2)
        if not total or not self.stored(context) and context:
            return below
        own, kept = 0.0, 0.0
        for gram in filter(self.stored, children):
            weight = self.weight[gram]
            taken = weight - self.discounts[len(gram)][min(weight, 3) - 1]
            kept += taken / total
            own += taken / total if gram[-1] == token else 0.0
        return own + (1 - kept) * below


def probability(arrays, order, token, context):
    """The same from the arrays: back-off over dictionaries of what the keys spell."""
    size = len(arrays["log_probs_1"])
    spelled = {1: [(token,) for token in range(size)]}
    for k in range(2, order + 1):
        keys = arrays[f"keys_{k}"][:-1]
        spelled[k] = [(*spelled[k - 1][key // size], key % size) for key in keys.tolist()]
    log_probs = {g: p for k in spelled for g, p in zip(spelled[k], arrays[f"log_probs_{k}"], strict=False)}
    back_offs = {g: p for k in range(1, order) for g, p in zip(spelled[k], arrays[f"back_offs_{k}"], strict=False)}
    total = 0.0
    while (*context, token) not in log_probs:
        total += back_offs.get(context, 0.0)
        context = context[1:]
    return np.exp(total + log_probs[*context, token])


def test_numbers_by_hand():
    ids, splits = flat([[START, 4, 5, 4, 5, END]])
    arrays = kneser_ney(ids, splits, vocabulary_size=6, order=2)
    # 4 follows two different tokens, 5 and the end one each; discounts 0.5 and 1; half of the mass is uniform.
    expected = [0.0, 0.125, 0.0, 0.25, 0.375, 0.25]
    np.testing.assert_allclose(np.exp(arrays["log_probs_1"]), expected, rtol=1e-6)
    after_5 = [probability(arrays, 2, token, (5,)) for token in (UNKNOWN, END, 4, 5)]
    np.testing.assert_allclose(after_5, [0.0625, 0.375, 0.4375, 0.125], rtol=1e-6)


def test_discounts_of_counts_of_counts():
    np.testing.assert_allclose(discounts_of(np.repeat([1, 2, 3, 4, 9], [30, 9, 6, 4, 7])), (0.625, 0.75, 4 / 3))
    assert discounts_of(np.repeat([1, 2, 3, 4], [10, 2, 9, 4])) == FALLBACK  # the discount of 2 would be below 0
    assert discounts_of(np.array([], int)) == FALLBACK


@pytest.mark.parametrize("texts, split", [(ENGLISH, str.split), (CHINESE, list)], ids=["english", "chinese"])
@pytest.mark.parametrize("order, min_count", [(1, 1), (2, 1), (3, 1), (5, 1), (4, 2)])
def test_equals_the_twin(texts, split, order, min_count):
    docs, size = documents(texts, split)
    arrays, twin = kneser_ney(*flat(docs, "uint16"), size, order, min_count), Twin(docs, size, order, min_count)
    # In order 1 the only context is the empty one.
    contexts = {tuple(doc[max(0, end - order + 1) : end]) for doc in docs for end in range(1, len(doc))}
    for context in sorted(contexts):
        found = [probability(arrays, order, token, context) for token in range(size)]
        np.testing.assert_allclose(found, [twin(token, context) for token in range(size)], rtol=1e-5, atol=1e-9)


def test_equals_the_twin_where_counts_give_the_discounts():
    random = np.random.default_rng(1)
    docs = [[START, *np.minimum(random.zipf(1.5, 12) + 3, 40).tolist(), END] for _ in range(60)]
    arrays, twin = kneser_ney(*flat(docs), 41, 3), Twin(docs, 41, 3)
    assert FALLBACK not in twin.discounts.values()
    for context in [(START,), (START, 4), (4, 4), (5, 4), (4, 5), (9, 4)]:
        found = [probability(arrays, 3, token, context) for token in range(41)]
        np.testing.assert_allclose(found, [twin(token, context) for token in range(41)], rtol=1e-5, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([UNKNOWN, 4, 5, 6]), max_size=9), min_size=1, max_size=8),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_every_distribution_sums_to_one(texts, order, min_count):
    docs = [[START, *text, END] for text in texts]
    arrays = kneser_ney(*flat(docs), 8, order, min_count)
    contexts = {tuple(doc[max(0, end - order + 1) : end]) for doc in docs for end in range(1, len(doc))}
    for context in [*sorted(contexts)[:8], (7,) * (order - 1)]:
        found = [probability(arrays, order, token, context) for token in range(8)]
        assert found[PAD] == found[START] == 0.0 and found[UNKNOWN] > 0.0
        assert sum(found) == pytest.approx(1.0, abs=1e-5)


def test_nothing_reaches_across_documents():
    docs = [[START, 4, END], [START, 5, END]]
    joined = kneser_ney(*flat(docs), 6, 3)
    spelled = [divmod(key, 6) for key in joined["keys_2"][:-1].tolist()]
    assert spelled == [(START, 4), (START, 5), (4, END), (5, END)]


def test_rare_ngrams_are_dropped_from_order_three_on():
    docs, size = documents(ENGLISH, str.split)
    whole, pruned = kneser_ney(*flat(docs), size, 4), kneser_ney(*flat(docs), size, 4, min_count=2)
    np.testing.assert_array_equal(whole["keys_2"], pruned["keys_2"])
    seen = Twin(docs, size, 4).seen
    for k in (3, 4):
        assert len(pruned[f"keys_{k}"]) - 1 == sum(n >= 2 for g, n in seen.items() if len(g) == k)
        assert len(pruned[f"keys_{k}"]) < len(whole[f"keys_{k}"])
        assert (np.diff(pruned[f"keys_{k}"]) > 0).all() and pruned[f"keys_{k}"][-1] == ABSENT


def test_documents_shorter_than_the_order_and_the_given_ids_untouched():
    ids, splits = flat([[START, 4, END], [START, END]])
    ids.flags.writeable = False
    arrays = kneser_ney(ids, splits, 6, order=5)
    assert [len(arrays[f"keys_{k}"]) - 1 for k in (2, 3, 4, 5)] == [3, 1, 0, 0]
    assert probability(arrays, 5, 4, (START,)) > probability(arrays, 5, UNKNOWN, (START,)) > 0


def test_an_empty_document_among_others_counts_for_nothing():
    docs = [[START, 4, END], [], [START, 5, 4, END]]
    with_empty, without = kneser_ney(*flat(docs), 6, 3), kneser_ney(*flat([docs[0], docs[2]]), 6, 3)
    for name, array in without.items():
        np.testing.assert_array_equal(with_empty[name], array)


@pytest.mark.parametrize(
    "docs, settings, message",
    [
        ([], {}, "at least one token to predict. Received: 0 ids in 0 documents"),
        ([[START]], {}, "at least one token to predict. Received: 1 ids in 1 documents"),
        ([[START, 4, END]], {"order": 0}, "order of an n-gram model must be at least 1. Received: 0"),
        ([[START, 4, END]], {"min_count": 0}, "min_count of an n-gram model must be at least 1. Received: 0"),
        ([[START, 9, END]], {}, "Ids must be from 1 to 5: 0 is padding. Received: 2 to 9"),
        ([[START, PAD, END]], {}, "Ids must be from 1 to 5: 0 is padding. Received: 0 to 3"),
        ([[START, 4, START, END]], {}, "start id 2 and have it nowhere else. Received: 2 start ids in 1 documents"),
        ([[4, END], [START, END]], {}, "Each document must begin with the start id"),
    ],
)
def test_what_cannot_be_estimated_is_refused(docs, settings, message):
    with pytest.raises(UserError) as error:
        kneser_ney(*flat(docs), vocabulary_size=6, **settings)
    assert message in str(error.value)
