"""Writes a MaxMind database with two cities to the given path."""

import sys

from mmdb_writer import MMDBWriter
from netaddr import IPSet

writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="GeoLite2-City", languages=["en", "es"])
writer.insert_network(
    IPSet(["203.0.113.0/24"]),
    {
        "city": {"names": {"en": "Bogota", "es": "Bogotá"}},
        "country": {"iso_code": "CO", "names": {"en": "Colombia", "es": "Colombia"}},
    },
)
writer.insert_network(
    IPSet(["2001:db8::/32"]), {"country": {"iso_code": "ES", "names": {"en": "Spain", "es": "España"}}}
)
writer.to_db_file(sys.argv[1])
