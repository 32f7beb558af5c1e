"""The page at `/`: what it holds, and what a real browser makes of it."""

import html
import json
import re
import shutil
import subprocess
from urllib.parse import urlencode

import pytest
import requests
import tensorflow as tf
from serving_models import save_half_plus

from keras_llm.serving.page import page
from keras_llm.serving.server import Server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=10000"
).split()


def save_reader(directory):
    """The answer is what stands in brackets, with them."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, n) for n in ("question", "context")])
    def answer(question, context):
        tf.debugging.assert_none_equal(question, "fail", message="<b>you asked for it</b>")
        before = tf.strings.regex_replace(context, r"(?s)\[.*", "")
        after = tf.strings.regex_replace(context, r"(?s).*\]", "")
        count = tf.strings.length(context, unit="UTF8_CHAR")
        start = tf.strings.length(before, unit="UTF8_CHAR")
        none = start == count
        end = tf.where(none, -1, count - tf.strings.length(after, unit="UTF8_CHAR"))
        found = tf.where(none, "", tf.strings.regex_replace(context, r"(?s).*(\[.*\]).*", r"\1"))
        score = tf.fill(tf.shape(question), 0.875)
        return {"answer": found, "score": score, "start": tf.where(none, -1, start), "end": end}

    tf.saved_model.save(module, str(directory), signatures={"serving_default": answer})


def save_writer(directory):
    """One string in, one out."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "question")])
    def answer(question):
        return {"answer": tf.strings.join(["“", question, "”"])}

    tf.saved_model.save(module, str(directory), signatures={"serving_default": answer})


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    save_reader(root / "reader" / "1")
    save_writer(root / "writer" / "1")
    save_half_plus(root / "numbers" / "1", 2)
    with Server(root, port=0) as server:
        yield server.url


def test_models_are_offered_and_nothing_from_elsewhere_is_loaded(url):
    response = requests.get(url, timeout=30)
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    names = re.search(r'<script id="models" type="application/json">(.*?)</script>', response.text)[1]
    assert json.loads(names) == ["numbers", "reader", "writer"]
    assert not re.search(r"https?://|src=|href=|innerHTML", response.text)
    assert requests.post(url, timeout=30).status_code == 405
    assert requests.get(url + "/index.html", timeout=30).status_code == 404


def test_a_name_cannot_end_its_element():
    name = "</script><b>"
    found = re.search(r'<script id="models" type="application/json">(.*?)</script>', page([name]))[1]
    assert json.loads(found) == [name]


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (apt install chromium)")
@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_a_browser_shows_answer_score_and_span(url, tmp_path, language):
    def see(**given):
        """The page after its question was asked: what its elements hold, and whether it speaks Chinese."""
        command = [CHROMIUM, *FLAGS, f"--accept-lang={language}", f"--user-data-dir={tmp_path}", "--dump-dom"]
        done = subprocess.run([*command, f"{url}/#{urlencode(given)}"], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        found = {}
        for name in ("result", "answer", "facts", "span", "error"):
            _, attributes, content = re.search(
                rf'<(\w+)\b([^>]*\bid="{name}"[^>]*)>(.*?)</\1>', done.stdout, re.DOTALL
            ).groups()
            found[name] = "" if "hidden" in attributes else content
        return found, "模型</label>" in done.stdout

    context = "😀“注意力”由 [Bahdanau 等人 𠮷] 提出 <i>。"
    found, chinese = see(model="reader", question="谁？", context=context)
    assert chinese == (language == "zh-CN")
    escaped = html.escape(context, quote=False).replace("[", "<mark>[").replace("]", "]</mark>")
    assert found["span"] == escaped and "[Bahdanau 等人 𠮷]" in found["answer"] and "0.875" in found["facts"]
    assert not found["error"]

    found, _ = see(model="reader", question="谁？", context="没有。")
    assert found["answer"] == ("文中没有答案" if chinese else "The context holds no answer")
    assert "没有。<mark></mark>" in found["span"]
    if chinese:
        return  # what follows has no words of ours
    found, _ = see(model="writer", question="<b>LSTM</b>？")
    assert found["answer"] == "“&lt;b&gt;LSTM&lt;/b&gt;？”" and not found["span"]
    found, _ = see(model="reader", question="fail", context="x")
    assert "&lt;b&gt;you asked for it&lt;/b&gt;" in found["error"] and not found["result"]
    found, _ = see(model="numbers", question="1")
    assert "all strings" in found["error"]
