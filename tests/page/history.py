"""Copies the latest records to earlier days, so that charts have data.

history.py DAYS
"""

import os
import random
import sys
from datetime import timedelta

import pymongo

dice = random.Random(7)
deliveries = pymongo.MongoClient(os.environ["MONGODB_URI"]).get_default_database()["deliveries"]
models = list(deliveries.find({"at": {"$exists": True}}))
good = [record for record in models if record["status"] == "sent"]
bad = [record for record in models if record["status"] == "failed"]
copies = []
for day in range(1, int(sys.argv[1])):
    for number in range(dice.randint(18, 60)):
        model = dict(dice.choice(bad if dice.random() < 0.06 else good))
        model["at"] -= timedelta(days=day, minutes=dice.randint(0, 300))
        model["delivery_id"] = f"{dice.getrandbits(128):032x}"
        model["_id"] = f"{model['delivery_id']}/{model['attempt']}/{model['status']}"
        # The copies are about other bookings and already read.
        if model["route"] == "booking-rescheduled":
            continue
        model["correlation"] = {"booking_id": f"OLD-{number}"}
        copies.append(model)
deliveries.insert_many(copies)
print(f"{len(copies)} records")
