"""Pretrained checkpoints in Hugging Face's form, read into our own layers and written again.

A family is a module that offers the same functions:

```python
read_config(described: dict, folder: Path) -> Config     # of config.json; UserError for a value that is not supported
read_tokenizer(folder: Path, config: Config) -> Tokenizer
table(config: Config, vocabulary_size: int) -> list[Entry]     # names of tensors, read in both directions: see table.py
write_config(config: Config, tokenizer: Tokenizer) -> dict     # the ways back; UserError where the family has no such model
write_tokenizer(directory: Path, tokenizer: Tokenizer, config: Config)
```
and the constants `CANONICAL` (a tensor's name in the file -> its name in the table), `TIED` and `IGNORED`, as `table.to_ours`
takes them.
"""

# model_type of config.json -> the module of its family.
FAMILIES: dict[str, str] = {
    "bert": "bert",
    "roberta": "roberta",
    "gpt2": "gpt2",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "llama",
    "qwen3": "llama",
    "t5": "t5",
    "mt5": "t5",
}
