"""The contract as a publisher's own validator sees it, with nothing of usher's code.

contract.py DOCUMENT <EVENTS     EVENTS: one [message, payload] a line; prints ok, or where the payload is wrong,
                                 for each
"""

import json
import sys
from functools import cache

import jsonschema
import yaml

with open(sys.argv[1], encoding="utf-8") as file:
    document = yaml.safe_load(file)


@cache
def validator(message: str) -> jsonschema.Draft7Validator:
    pointer = f"#/components/messages/{message}/payload"
    # The whole document, so that its references lead somewhere.
    return jsonschema.Draft7Validator({**document, "$ref": pointer})


for message in document["components"]["messages"].values():
    jsonschema.Draft7Validator.check_schema(message["payload"])
for schema in document["components"]["schemas"].values():
    jsonschema.Draft7Validator.check_schema(schema)
# All of it first: whoever writes the events may read nothing before that.
for line in sys.stdin.readlines():
    error = next(validator((case := json.loads(line))[0]).iter_errors(case[1]), None)
    print("ok" if error is None else f"{error.json_path}: {error.message}".replace("\n", " "))
