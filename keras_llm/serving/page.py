"""The page at `/`: choose a model, ask it, see its answer. One file without anything from elsewhere; it uses the REST API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

HTML = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
HEADERS = {
    # Whatever a model answers, the page runs its own script only and talks to this server only.
    "content-security-policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}


def page(models: Sequence[str]) -> str:
    """The HTML.

    Args:
        models: names of what can be asked, in the order in which they are offered.

    Example:

    >>> "reader" in page(["reader"])
    True
    """
    # Nothing in a name can end the script element that holds it.
    names = json.dumps(list(models)).replace("<", "\\u003c")
    return HTML.replace('type="application/json">[]<', f'type="application/json">{names}<')
