"""Checks events against the contract as a publisher's own validator would, without any code of usher.

contract.py DOCUMENT <EVENTS     EVENTS: one [message, payload] a line. Prints for each ok, or what is wrong with
                                 the payload.
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
    # The whole document, so that its references resolve.
    return jsonschema.Draft7Validator({**document, "$ref": pointer})


for message in document["components"]["messages"].values():
    jsonschema.Draft7Validator.check_schema(message["payload"])
for schema in document["components"]["schemas"].values():
    jsonschema.Draft7Validator.check_schema(schema)
# Read all input first: the writer may read nothing before it has written everything.
for line in sys.stdin.readlines():
    error = next(validator((case := json.loads(line))[0]).iter_errors(case[1]), None)
    print("ok" if error is None else f"{error.json_path}: {error.message}".replace("\n", " "))
