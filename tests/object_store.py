"""Stores with S3's interface that moto serves, for tests: what one test left in this process is forgotten before the next."""

import http.client


def empty(url):
    """Forget all buckets of moto's servers in this process, which share them."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.request("POST", "/moto-api/reset")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 200
