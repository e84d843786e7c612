"""What the document can't say: two requests with one key are one request."""

import uuid

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    key = (case.headers or {}).get("Idempotency-Key")
    if key and len(key) < 200:
        case.headers["Idempotency-Key"] = key + str(uuid.uuid4())
