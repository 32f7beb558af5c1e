"""The export's gates: each closes on a tiny module made for it, names op, place and way out, and lets clean graphs pass."""

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
import tensorflow_text as tf_text
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from keras_llm.errors import UserError
from keras_llm.export import gates

ROOT = Path(__file__).resolve().parent.parent
FLOATS, STRINGS = tf.TensorSpec([None], name="x"), tf.TensorSpec([None], tf.string, name="x")


def saved(tmp_path, function, spec=FLOATS, module=None, name="serving_default"):
    module = module or tf.Module()
    module.function = tf.function(function, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={name: module.function})
    return tmp_path / "m"


def refused(directory, *words, **options):
    with pytest.raises(UserError) as error:
        gates.check(directory, **options)
    for word in words:
        assert word in str(error.value)


def test_a_clean_graph_passes_and_its_own_functions_are_no_ops(tmp_path):
    inner = tf.function(lambda x: tf.matmul(x[:, None], x[:, None], transpose_a=True)[:, 0])
    ops = gates.check(saved(tmp_path, lambda x: {"y": x + inner(x)}))
    assert {"MatMul", "AddV2", "StatefulPartitionedCall"} <= set(ops)
    assert not any("inference" in op for op in ops)


def test_python_is_refused_and_the_layer_named(tmp_path):
    def f(x):
        with tf.name_scope("reader/attend"):
            return {"y": tf.ensure_shape(tf.py_function(lambda v: v, [x], tf.float32), [None])}

    refused(saved(tmp_path, f), "EagerPyFunc", "(layer reader/attend)", "in function __inference_f", "TensorFlow ops")


@pytest.mark.parametrize("outer", [True, False])
def test_xla_is_refused_wherever_it_was_asked_for(tmp_path, outer):
    inner = tf.function(lambda x: x * 2, jit_compile=True)
    module = tf.Module()
    if outer:
        module.function = tf.function(lambda x: {"y": x * 2}, input_signature=[FLOATS], jit_compile=True)
        tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": module.function})
    else:
        saved(tmp_path, lambda x: {"y": inner(x)}, module=module)
    refused(tmp_path / "m", "_XlaMustCompile", "without jit_compile")


def test_xla_scopes_are_refused(tmp_path):
    def f(x):
        with tf.xla.experimental.jit_scope(compile_ops=True):
            return {"y": x * 2}

    refused(saved(tmp_path, f), "_XlaCompile")


def mutable_hash_table():
    return tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)


def dense_hash_table():
    return tf.lookup.experimental.DenseHashTable(tf.string, tf.int64, -1, empty_key="", deleted_key="\x00")


@pytest.mark.parametrize("table", [mutable_hash_table, dense_hash_table])
def test_tables_that_grow_are_refused(tmp_path, table):
    module = tf.Module()
    module.table = table()

    def f(x):
        module.table.insert(x, tf.zeros_like(x, tf.int64))
        return {"y": module.table.lookup(x)}

    refused(saved(tmp_path, f, STRINGS, module), "HashTableV2", "grows", "static table")


def test_a_static_table_passes(tmp_path):
    module = tf.Module()
    init = tf.lookup.KeyValueTensorInitializer(["谁"], tf.constant([5], tf.int64))
    module.table = tf.lookup.StaticHashTable(init, -1)
    assert "HashTableV2" in gates.check(saved(tmp_path, lambda x: {"y": module.table.lookup(x)}, STRINGS, module))


@pytest.mark.parametrize(
    "op", ["PyFunc", "PyFuncStateless", "XlaSort", "AnonymousMutableHashTable", "TPUExecute", "MyOwnOp"]
)
def test_ops_by_name(tmp_path, op):
    """Ops that this TensorFlow cannot put into a graph by itself."""
    path = saved(tmp_path, lambda x: {"y": tf.sin(x)}) / "saved_model.pb"
    proto = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for function in proto.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            node.op = op if node.op == "Sin" else node.op
    path.write_bytes(proto.SerializeToString())
    refused(path.parent, f"{op} must not be in an export", "node Sin in function __inference_")


def test_core_ops_newer_than_the_server_are_refused(tmp_path):
    def f(x):
        image = tf.raw_ops.DecodeJxl(contents=x[0], channels=3, dtype=tf.uint8)
        return {"y": tf.fill([tf.size(x)], tf.size(image))}

    refused(saved(tmp_path, f, STRINGS), "DecodeJxl", "a stock server 2.20 does not link it")


def test_attributes_newer_than_the_server_are_refused(tmp_path):
    def f(x):
        handle = tf.raw_ops.TensorListFromTensor(tensor=x, element_shape=tf.constant([], tf.int32))
        shape = tf.constant([], tf.int64)
        item = tf.raw_ops.TensorListGetItem(input_handle=handle, index=0, element_shape=shape, element_dtype=tf.float32)
        return {"y": x + item}

    refused(saved(tmp_path, f), "TensorListGetItem", "'Tshape'", "TensorFlow 2.20.0")


def test_text_ops_that_older_servers_lack(tmp_path):
    directory = saved(tmp_path, lambda x: {"y": tf.reduce_sum(tf_text.utf8_binarize(x), axis=1)}, STRINGS)
    assert "TFText>Utf8Binarize" in gates.check(directory, server="2.20")
    refused(directory, "TFText>Utf8Binarize", "choose --server 2.20", server="2.19")


def test_half_precision_is_refused(tmp_path):
    directory = saved(tmp_path, lambda x: {"y": tf.cast(tf.sin(tf.cast(x, tf.bfloat16)), tf.float32)})
    refused(directory, "float32 everywhere", "DT_BFLOAT16")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"y": lambda x: tf.RaggedTensor.from_row_lengths(x, [1, 2])}, ("ragged", "output", "Pad it")),
        ({"y": lambda x: tf.cast(x, tf.float64)}, ("double", "Cast it")),
        (
            {"y": lambda x: tf.raw_ops.TensorListFromTensor(tensor=x, element_shape=tf.constant([], tf.int32))},
            ("DT_VARIANT",),
        ),
        ({"y": lambda x: tf.reduce_sum(x)}, ("batch dimension", "output 'y'")),
        ({"my y": lambda x: x * 2}, ("letters", "'my y'")),
        ({"text_bytes": lambda x: tf.strings.as_string(x)}, ("base64", "Rename")),
    ],
    ids=["ragged", "double", "variant", "scalar", "name", "bytes"],
)
def test_outputs_that_clients_cannot_read_are_refused(tmp_path, output, words):
    refused(saved(tmp_path, lambda x: {name: make(x) for name, make in output.items()}), *words)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (tf.TensorSpec([3], name="x"), ("batch dimension", "input 'x'")),
        (tf.TensorSpec([], name="x"), ("batch dimension", "input 'x'")),
        (tf.TensorSpec(None, name="x"), ("batch dimension", "input 'x'")),
        (tf.TensorSpec([None], tf.uint8, name="x"), ("uint8", "input 'x'")),
    ],
    ids=["fixed", "scalar", "unknown", "uint8"],
)
def test_inputs_that_clients_cannot_send_are_refused(tmp_path, spec, words):
    refused(
        saved(tmp_path, lambda x: {"y": tf.ensure_shape(tf.reshape(tf.cast(x, tf.float32), [-1]), [None])}, spec),
        *words,
    )


def test_serving_default_must_be_there(tmp_path):
    refused(saved(tmp_path, lambda x: {"y": x * 2}, name="other"), "serving_default", "other")


def test_the_list_of_ops_is_what_tensorflow_and_tensorflow_text_have():
    core, raw = set(gates.SERVERS["core_ops"]), {name for name in dir(tf.raw_ops) if not name.startswith("_")}
    assert core <= raw and len(core) > 1300
    families = ("Xla", "TPU", "PyFunc", "Mutable")
    assert all(any(family in name for family in families) for name in raw - core)
    package = Path(tf_text.__file__).parent
    installed = {str(path.relative_to(package)) for path in package.glob("python/*/_*.so")}
    assert set(gates.SERVERS["text_libraries"]) == installed and len(installed) == 23
    for ops in gates.SERVERS["text_libraries"].values():
        assert ops and all(op_def_registry.get(op) is not None for op in ops)


def test_what_server_2_19_lacks():
    assert gates.ops_of("2.20") - gates.ops_of("2.19") == {
        "DecodeWebP",
        "TFText>RoundRobinGenerateMasks",
        "TFText>RoundRobinTrim",
        "TFText>Utf8Binarize",
    }
    assert len(gates.text_libraries("2.20")) == 23 and len(gates.text_libraries("2.19")) == 21
    assert all(path.exists() for path in gates.text_libraries("2.20"))


def test_an_unknown_server_is_told_with_the_nearest():
    with pytest.raises(UserError, match=r"2\.20, 2\.19.*Received: '2\.2'.*mean 2\.20"):
        gates.ops_of("2.2")
    command = [sys.executable, str(ROOT / "scripts" / "export.py"), "run", "exported/x", "--server", "2.2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "2.20" in done.stderr and "Traceback" not in done.stderr
