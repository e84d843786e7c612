"""Acts as a publisher and as an auditor, without any code of usher.

second_opinion.py publish AMQP_URL QUEUE <BODY     declares the queue and publishes one event
second_opinion.py find MONGODB_URI                 prints the audit records' statuses
"""

import sys

import pika
import pymongo


def publish(url: str, queue: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare(queue=queue, durable=True)
    channel.confirm_delivery()
    channel.basic_publish(
        exchange="",
        routing_key=queue,
        body=sys.stdin.buffer.read(),
        properties=pika.BasicProperties(delivery_mode=2),
        mandatory=True,
    )
    connection.close()


def find(uri: str) -> None:
    records = pymongo.MongoClient(uri).get_default_database().deliveries
    for record in records.find().sort("event.type"):
        print(record["event"]["type"], record["recipient"], record["status"])


if __name__ == "__main__":
    {"publish": publish, "find": find}[sys.argv[1]](*sys.argv[2:])
