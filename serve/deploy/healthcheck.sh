#!/bin/bash
# Succeeds if a version of the model is AVAILABLE. The status must be read: it comes with HTTP 200 also when every
# version is still LOADING or has failed (END). In bash alone, because the image has no curl.
#
# usage: healthcheck.sh [model [port]]

exec 3<>"/dev/tcp/127.0.0.1/${2:-8501}" || exit 1
printf 'GET /v1/models/%s HTTP/1.0\r\n\r\n' "${1:-policy}" >&3
IFS= read -r -d '' -t 3 -u 3 answer  # to the end: in HTTP/1.0 the server closes the connection
(($? > 128)) && answer="no answer within 3 seconds"

available='^HTTP/1\.. 200 .*"state": *"AVAILABLE"'
[[ $answer =~ $available ]] && exit
echo "$answer"
exit 1
