"""The stand-in for MongoDB: `python -m secantus`, with a fix for one of its deadlocks.

On SIGUSR1 it tells where each of its threads is.
"""

import faulthandler
import runpy
import signal

from secantus.storage import Storage

create_collection = Storage.create_collection


def create_collection_in_order(self, db, coll, options=None):
    """Takes the collection's lock before the storage's, as all other code does.

    Otherwise (0.7.0b3): an insert that is just making the same collection waits for the storage's lock inside its
    transaction, and this one, which has that lock, waits for the row that the transaction has written.
    """
    with self._coll_lock(db, coll):
        return create_collection(self, db, coll, options)


Storage.create_collection = create_collection_in_order
faulthandler.register(signal.SIGUSR1)
runpy.run_module("secantus", run_name="__main__")
