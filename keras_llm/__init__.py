"""keras_llm: train a language model on your own text in Keras and deploy it as one file from strings to strings.

`keras_llm.load(run_dir)` opens a trained run; TensorFlow and Keras are imported only then.
"""

from keras_llm.errors import UserError
from keras_llm.run import load

__version__ = "0.1.0"
__all__ = ["UserError", "load"]
