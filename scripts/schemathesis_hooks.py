"""Keeps schemathesis from revoking the token it works with, which the list of tokens shows it."""

import os

import schemathesis

OWN = os.environ["COBALT_OWN_TOKEN_ID"]
OTHER = "00000000-0000-4000-8000-000000000000"


@schemathesis.hook
def before_call(context, case, kwargs):
    if (case.path_parameters or {}).get("id") == OWN:
        case.path_parameters["id"] = OTHER
