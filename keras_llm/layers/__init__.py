"""The layers models are built from, over `keras.ops` only: they run on every Keras backend and in every dtype policy.

Shapes: B batch, T length, S memory length, H heads, K key/value heads, D width, V vocabulary, d = D / H.
"""
