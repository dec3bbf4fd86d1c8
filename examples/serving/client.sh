#!/usr/bin/env bash
# One live sequence by curl, a request a step. The server: treadle serve net.safetensors
set -euo pipefail
model=${1:-http://127.0.0.1:8000/v2/models/net}

step() { # step PARAMETERS NUMBERS
    curl --silent --show-error --fail-with-body "$model/infer" --json '{
        "parameters": {"sequence_id": "sensor-7", '"$1"'},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": ['"$2"']}]
    }'
    echo
}

step '"sequence_start": true' '0.1, 0.2, 0.3' # the first step: from the initial state
step '"step": 1' '0.2, 0.3, 0.4'              # the position that the step begins at
step '"step": 1' '0.2, 0.3, 0.4'              # a retry: the same answer, and no second step
step '"sequence_end": true' '0.3, 0.4, 0.5'   # the last step: the session is closed
