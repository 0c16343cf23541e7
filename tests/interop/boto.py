"""Does what a test says with boto3: one JSON object a line in, one a line out.

In: {"call": NAME, "args": {...}, "client": "s3" | "s3v2" | "sts"}. NAME is a method of the client, or one of:
  presign        args: method, params, expires -> {"url"}
  presign_post   args: as of generate_presigned_post -> {"url", "fields"}
  upload         args: Bucket, Key, Body, part -> transfer in parts of so many bytes
  download       args: Bucket, Key -> {"Body"}
  fetch          args: method, url, headers, Body -> {"status", "headers", "Body"}; no keys, no signature
  submit         args: url, fields, filename, Body -> {"status", "headers", "Body"}; a form as browsers send it
  client         args: access_key, secret_key, token -> from now on the clients have these keys
Out: {"ok": RESULT}, or {"error": {"code", "status", "message"}} when the store refused.

Bytes are {"base64": TEXT} both ways, times are text. The server and the keys come from the environment.
"""

import base64
import datetime
import io
import json
import os
import sys
import urllib.error
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

KEYS = {
    "aws_access_key_id": os.environ["INTEROP_ACCESS_KEY"],
    "aws_secret_access_key": os.environ["INTEROP_SECRET_KEY"],
}
SIGNATURES = {"s3": "s3v4", "s3v2": "s3", "sts": "v4"}
clients = {}


def client(name):
    if name not in clients:
        config = Config(
            signature_version=SIGNATURES[name],
            s3={"addressing_style": "path"},
            # What fails is to be seen.
            retries={"total_max_attempts": 1},
            connect_timeout=10,
            read_timeout=60,
            user_agent_extra="xosfs-tests",
        )
        clients[name] = boto3.client(
            "sts" if name == "sts" else "s3",
            endpoint_url=os.environ["INTEROP_ENDPOINT"],
            region_name=os.environ["INTEROP_REGION"],
            config=config,
            **KEYS,
        )
    return clients[name]


def plain(value):
    """A result as JSON can say it."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k != "ResponseMetadata"}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (bytes, bytearray)):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if hasattr(value, "read"):
        return plain(value.read())
    return value


def given(value):
    if isinstance(value, dict):
        if set(value) == {"base64"}:
            return base64.b64decode(value["base64"])
        return {k: given(v) for k, v in value.items()}
    if isinstance(value, list):
        return [given(v) for v in value]
    return value


def http(method, url, headers, body):
    # With data, even none, urllib adds a content type that nobody signed.
    request = urllib.request.Request(url, data=body or None, headers=headers, method=method)
    # No proxy of the environment: the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        answer = opener.open(request, timeout=60)
    except urllib.error.HTTPError as error:
        answer = error
    return {"status": answer.status, "headers": {k.lower(): v for k, v in answer.headers.items()}, "Body": answer.read()}


def submit(url, fields, filename, body):
    boundary = "----interop-boundary"
    out = io.BytesIO()
    for name, value in fields.items():
        out.write(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    out.write(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
    )
    out.write(body + f"\r\n--{boundary}--\r\n".encode())
    return http("POST", url, {"Content-Type": f"multipart/form-data; boundary={boundary}"}, out.getvalue())


def run(call, args, which):
    if call == "presign":
        return {"url": client(which).generate_presigned_url(args["method"], args["params"], args.get("expires", 60))}
    if call == "presign_post":
        return client(which).generate_presigned_post(**args)
    if call == "upload":
        config = TransferConfig(multipart_threshold=args["part"], multipart_chunksize=args["part"])
        client(which).upload_fileobj(io.BytesIO(args["Body"]), args["Bucket"], args["Key"], Config=config)
        return {}
    if call == "download":
        out = io.BytesIO()
        client(which).download_fileobj(args["Bucket"], args["Key"], out)
        return {"Body": out.getvalue()}
    if call == "fetch":
        return http(args["method"], args["url"], args.get("headers", {}), args.get("Body"))
    if call == "submit":
        return submit(args["url"], args["fields"], args["filename"], args["Body"])
    if call == "client":
        KEYS["aws_access_key_id"], KEYS["aws_secret_access_key"] = args["access_key"], args["secret_key"]
        KEYS["aws_session_token"] = args["token"]
        clients.clear()
        return {}
    return getattr(client(which), call)(**args)


for line in sys.stdin:
    asked = json.loads(line)
    try:
        answer = {"ok": plain(run(asked["call"], given(asked["args"]), asked.get("client", "s3")))}
    except ClientError as error:
        answer = {
            "error": {
                "code": error.response.get("Error", {}).get("Code", ""),
                "status": error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0),
                "message": str(error),
            }
        }
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
