#!/usr/bin/env python3
"""Writes collections as `mongoexport --jsonFormat=canonical` does: export.py URI DATABASE FOLDER COLLECTION…"""
import pathlib
import sys

from bson.json_util import CANONICAL_JSON_OPTIONS, dumps
from pymongo import MongoClient

uri, database, folder, *collections = sys.argv[1:]
folder = pathlib.Path(folder)
folder.mkdir(exist_ok=True)
for name in collections:
    documents = MongoClient(uri)[database][name].find()
    lines = (dumps(document, json_options=CANONICAL_JSON_OPTIONS) + "\n" for document in documents)
    (folder / f"{name}.ndjson").write_text("".join(lines), encoding="utf-8")
