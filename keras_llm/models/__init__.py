"""Models: ids in, numbers out. `MODELS` names them by kind and architecture."""

from keras_llm.models.encoder_reader import EncoderReader
from keras_llm.models.feedforward_lm import FeedForwardLanguageModel
from keras_llm.models.lstm_encoder_decoder import LSTMEncoderDecoder
from keras_llm.models.lstm_lm import LSTMAttentionLanguageModel, LSTMLanguageModel
from keras_llm.models.lstm_reader import LSTMReader
from keras_llm.models.ngram import NGramModel
from keras_llm.models.transformer_encoder_decoder import TransformerEncoderDecoder
from keras_llm.models.transformer_lm import TransformerLanguageModel
from keras_llm.models.transformer_masked_lm import TransformerMaskedLanguageModel
from keras_llm.models.transformer_reader import TransformerReader

MODELS = {
    ("reading", "lstm"): LSTMReader,
    ("reading", "transformer"): TransformerReader,
    ("reading", "transformer_encoder"): EncoderReader,
    ("closed_book", "lstm"): LSTMEncoderDecoder,
    ("closed_book", "transformer"): TransformerEncoderDecoder,
    ("causal_lm", "ngram"): NGramModel.untrained,
    ("causal_lm", "feedforward"): FeedForwardLanguageModel,
    ("causal_lm", "lstm"): LSTMLanguageModel,
    ("causal_lm", "lstm_attention"): LSTMAttentionLanguageModel,
    ("causal_lm", "transformer"): TransformerLanguageModel,
    ("masked_lm", "transformer"): TransformerMaskedLanguageModel,
    ("span_corruption", "lstm"): LSTMEncoderDecoder,
    ("span_corruption", "transformer"): TransformerEncoderDecoder,
    ("seq2seq", "lstm"): LSTMEncoderDecoder,
    ("seq2seq", "transformer"): TransformerEncoderDecoder,
    ("generation", "lstm"): LSTMLanguageModel,
    ("generation", "lstm_attention"): LSTMAttentionLanguageModel,
    ("generation", "transformer"): TransformerLanguageModel,
}
