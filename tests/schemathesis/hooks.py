"""Rules that the document can't express: two requests with one key are one request; a period ends after it begins, and at
most a year later; a whole number is written without a point."""

import uuid
from datetime import datetime, timedelta

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    key = (case.headers or {}).get("Idempotency-Key")
    if key and len(key) < 200:
        case.headers["Idempotency-Key"] = key + str(uuid.uuid4())
    for asked in (case.query, case.body):
        if not isinstance(asked, dict) or "desde" not in asked:
            continue
        try:
            begin = datetime.fromisoformat(asked["desde"])
            # An invalid one has to be refused.
            datetime.fromisoformat(asked.get("hasta", asked["desde"]))
            asked["hasta"] = f"{begin + timedelta(days=2):%Y-%m-%dT%H:%M:%S}Z"
        except (TypeError, ValueError, OverflowError):
            continue
    if isinstance(case.body, dict) and isinstance(case.body.get("batch_size"), float):
        size = case.body["batch_size"]
        case.body["batch_size"] = int(size) if size.is_integer() else size
