"""Texts that a model could write to run as a script in a page that shows them."""

import random

PIECES = (
    "</script>",
    "</SCRIPT >",
    "<script>",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "</textarea>",
    "</title>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "javascript:alert(1)",
    "&lt;script&gt;",
    "&#60;script&#62;",
    '"onmouseover="alert(1)',
    "'-alert(1)-'",
    "\\u003cscript>",
    "${alert(1)}",
    "{{ 7*7 }}",
    "{% raw %}",
    "{# #}",
    "`",
    "\\",
    '\\"',
    "\u2028",
    "\u2029",
    "\x00",
    "\x1b[31m",
    "\ufeff",
    "\u202e",
    "\ud800",
    "\U0001f525",
    "</style>",
    "<base href=//evil>",
    "<meta http-equiv=refresh>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    '<a href="javascript:alert(1)">',
    "__proto__",
    "\r\n",
)


def hostile_texts(count: int, seed: int = 0) -> list[str]:
    """Every piece by itself, then pieces in a row."""
    rng = random.Random(seed)
    found = list(PIECES)
    while len(found) < count:
        found.append("".join(rng.choices(PIECES, k=rng.randint(2, 5))) + str(len(found)))
    return found[:count]
