# A stream as python-requests reads it: what iter_lines gives, as soon as it gives it.
import sys

import requests

url, certificate = sys.argv[1:]
with requests.get(url, stream=True, verify=certificate or True) as answer:
    for line in answer.iter_lines():
        print(line.decode(), flush=True)
print("the end", flush=True)
