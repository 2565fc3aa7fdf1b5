"""Keeps schemathesis from revoking the token it works with, which the list of tokens shows it, and
from waiting for minutes for what nobody will do."""

import os

import schemathesis

OWN = os.environ["COBALT_OWN_TOKEN_ID"]
OTHER = "00000000-0000-4000-8000-000000000000"
LONGEST_SECS = 2


@schemathesis.hook
def before_call(context, case, kwargs):
    if (case.path_parameters or {}).get("id") == OWN:
        case.path_parameters["id"] = OTHER
    query = case.query or {}
    if query.get("wait") in ("ready", "gone"):
        asked = query.setdefault("timeout_secs", LONGEST_SECS)
        if str(asked).isdigit() and LONGEST_SECS < int(asked) <= 600:
            query["timeout_secs"] = LONGEST_SECS
