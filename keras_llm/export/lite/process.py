"""Run by path, never imported: answers requests with a `.tflite` file in a process that knows LiteRT only, and
tensorflow-text's custom ops where the file needs them.

usage: process.py MODEL.tflite REQUESTS ANSWERS

REQUESTS and ANSWERS are pickles, made and read by this package alone. A request holds an array for each input.
"""

import pickle
import statistics
import sys
import time

THREADS = (1, 2)
TIMED = 12  # requests, after one that is not timed


def main(model, requests, answers):
    with open(requests, "rb") as file:
        task = pickle.load(file)
    runners = {threads: open_model(model, threads, task["text"]) for threads in THREADS}
    found, milliseconds = [], {}
    for request in task["requests"]:
        found.append(runners[1](**request))
    for threads, runner in runners.items():
        runner(**task["requests"][0])
        times = []
        for request in task["requests"][:TIMED]:
            start = time.perf_counter()
            runner(**request)
            times.append(1000 * (time.perf_counter() - start))
        milliseconds[threads] = round(statistics.median(times), 2)
    with open(answers, "wb") as file:
        pickle.dump({"answers": found, "milliseconds": milliseconds}, file)


def open_model(path, threads, text):
    """The file's one signature as a function of named arrays."""
    if text:
        import tensorflow_text
        from ai_edge_litert.interpreter import InterpreterWithCustomOps

        ops = tensorflow_text.tflite_registrar.SELECT_TFTEXT_OPS
        interpreter = InterpreterWithCustomOps(model_path=path, num_threads=threads, custom_op_registerers=ops)
    else:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=path, num_threads=threads)
    strangers = {name.partition(".")[0] for name in sys.modules} & {"keras_llm", "keras_hub", "sentencepiece"}
    if not text:
        strangers |= {"tensorflow"} & set(sys.modules)
    if strangers:
        sys.exit(f"the process is not clean: {sorted(strangers)}")
    return interpreter.get_signature_runner()


if __name__ == "__main__":
    main(*sys.argv[1:])
