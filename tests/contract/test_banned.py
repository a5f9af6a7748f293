"""Files of others never run code here, nor do texts, shells or Prefect's results; and the library calls no other machine."""

import ast
import json
import subprocess
import sys

import banned
import pytest
from banned import ADAPTERS, ASSERTION, LIBRARY, NETWORK, PICKLING, RESULTS, SHELL, TEMPORARY, TESTS, TEXT_AS_CODE

ROOMS = ("fedsilo", "tasks", "flows", "studies", "benchmarks", "tests")

ALLOWED = {
    ("tests/unit/test_audit_docs.py", "exec"): "it runs the example of our own document",
    ("tests/unit/test_ingest_faults.py", "numpy.save"): "it makes the array of whole numbers that a damaged source holds",
    ("tests/pipeline/test_server.py", "urllib.request"): "it asks a server of ours on this machine",
}
"""What a file does for a reason; each must still do it."""

BAD = {
    "import pickle": PICKLING,
    "import cPickle": PICKLING,
    "import _pickle as fast": PICKLING,
    "import dill as json": PICKLING,
    "import cloudpickle": PICKLING,
    "import joblib": PICKLING,
    "import shelve": PICKLING,
    "import marshal": PICKLING,
    "from pickle import loads": PICKLING,
    "from joblib import load as read": PICKLING,
    "def late():\n    import pickle as p\n    return p": PICKLING,
    "import importlib\nimportlib.import_module('pickle')": PICKLING,
    "from importlib import import_module as find\nfind('marshal')": PICKLING,
    "import torch\ntorch.load('x')": PICKLING,
    "import torch\ntorch.load('x', weights_only=True)": PICKLING,
    "import torch as t\nt.save({}, 'x')": PICKLING,
    "from torch import load as read": PICKLING,
    "import torch\nread = torch.load": PICKLING,
    "import torch\ngetattr(torch, 'load')('x')": PICKLING,
    "import torch\nt = torch\nt.load('x')": PICKLING,
    "import torch\ntorch.jit.load('x')": PICKLING,
    "import torch.hub": PICKLING,
    "from torch import hub": PICKLING,
    "from torch.serialization import load": PICKLING,
    "import numpy\nnumpy.load('x', allow_pickle=True)": PICKLING,
    "import numpy as np\nnp.load('x', allow_pickle=flag)": PICKLING,
    "import numpy\nnumpy.save('x', values)": PICKLING,
    "from numpy import save as keep\nkeep('x', values)": PICKLING,
    "import numpy\nnumpy.save('x', values, allow_pickle=True)": PICKLING,
    "import pandas\npandas.read_pickle('x')": PICKLING,
    "from pandas import read_pickle": PICKLING,
    "table.to_pickle('x')": PICKLING,
    "getattr(table, 'to_pickle')('x')": PICKLING,
    "import yaml\nyaml.load(text)": PICKLING,
    "import yaml\nyaml.load(text, Loader=yaml.FullLoader)": PICKLING,
    "from yaml import load, Loader\nload(text, Loader)": PICKLING,
    "import yaml\nyaml.unsafe_load(text)": PICKLING,
    "import yaml as y\ny.full_load(text)": PICKLING,
    "eval(text)": TEXT_AS_CODE,
    "exec(text)": TEXT_AS_CODE,
    "compile(text, 'x', 'exec')": TEXT_AS_CODE,
    "__import__(name)": TEXT_AS_CODE,
    "import builtins\nbuiltins.exec(text)": TEXT_AS_CODE,
    "from builtins import eval as value": TEXT_AS_CODE,
    "run = eval": TEXT_AS_CODE,
    "import pandas\npandas.eval(text)": TEXT_AS_CODE,
    "import runpy\nrunpy.run_path(path)": TEXT_AS_CODE,
    "import subprocess\nsubprocess.run('ls', shell=True)": SHELL,
    "import subprocess\nsubprocess.Popen(command, shell=flag)": SHELL,
    "from subprocess import getoutput": SHELL,
    "import os\nos.system('ls')": SHELL,
    "from os import system as run": SHELL,
    "import os\nos.popen('ls')": SHELL,
    "import asyncio\nasyncio.create_subprocess_shell('ls')": SHELL,
    "import tempfile\ntempfile.mktemp()": TEMPORARY,
    "from tempfile import mktemp": TEMPORARY,
    "@task(persist_result=True)\ndef work(): ...": RESULTS,
    "@flow(persist_result=keep)\ndef work(): ...": RESULTS,
    "@flow(result_storage='s3/x')\ndef work(): ...": RESULTS,
    "work.with_options(result_serializer='pickle')": RESULTS,
    "@task(cache_policy=INPUTS)\ndef work(): ...": RESULTS,
    "import requests": NETWORK,
    "import urllib.request": NETWORK,
    "from urllib.request import urlopen as get": NETWORK,
    "import urllib\nurllib.request.urlopen('x')": NETWORK,
    "from urllib import request": NETWORK,
    "import httpx": NETWORK,
    "import aiohttp": NETWORK,
    "import socket": NETWORK,
    "import http.client": NETWORK,
    "from importlib import import_module\nimport_module('requests')": NETWORK,
    "assert ready": ASSERTION,
    "def check(x):\n    assert x, 'no x'\n    return x": ASSERTION,
}

GOOD = (
    "import re\nre.compile('a')",
    "network.eval()",
    "import torch\ntorch.compile(network)",
    "import ast\nast.literal_eval(text)",
    "import safetensors.torch\nsafetensors.torch.load(content)",
    "from fedsilo.federation import states\nstates.load(path)\nstates.save(state, path)",
    "import numpy\nnumpy.load('x')\nnumpy.load('x', allow_pickle=False)",
    "import numpy\nnumpy.save('x', values, allow_pickle=False)",
    "import yaml\nyaml.safe_load(text)\nyaml.load(text, Loader=yaml.CSafeLoader)",
    "from yaml import SafeLoader, load\nload(text, SafeLoader)",
    "import json\njson.load(handle)",
    "import subprocess\nsubprocess.run(['ls'], shell=False)",
    "import os\nos.environ.get('x')",
    "import tempfile\ntempfile.mkdtemp()\ntempfile.NamedTemporaryFile()",
    "factory.mktemp('x')",
    "import urllib.parse\nurllib.parse.quote('x')",
    "@task(cache_policy=NO_CACHE, persist_result=False)\ndef work(): ...",
    "word = 'pickle'  # and torch.load",
    "load = states.load\nload(path)",
    "if not ready:\n    raise ValueError('not ready')",
)

RUFF = {
    "import pickle": "TID251",
    "import pickle\npickle.loads(b'')": "S301",
    "import marshal\nmarshal.loads(b'')": "S302",
    "import torch\ntorch.load('x')": "TID251",
    "import yaml\nyaml.load('x')": "S506",
    "import subprocess\nsubprocess.run('ls', shell=True)": "S602",
    "import os\nos.system('ls')": "S605",
    "import tempfile\ntempfile.mktemp()": "S306",
    "eval('1')": "S307",
    "exec('1')": "S102",
    "assert True": "S101",
    "import requests\nrequests.get('https://x', verify=False, timeout=1)": "S501",
    "password = 'correct horse'": "S105",
    "import hashlib\nhashlib.md5(b'')": "S324",
    "import torch\ntorch.save({}, 'x')": "TID251",
    "import random\nrandom.random()": "S311",
    "import xml.etree.ElementTree\nxml.etree.ElementTree.parse('x')": "S314",
    "import tarfile\ntarfile.open('x').extractall()": "S202",
    "import jinja2\njinja2.Environment(autoescape=False)": "S701",
}
"""Snippets with the rule of ruff that must be on."""


@pytest.fixture(scope="module")
def sources(repository):
    return {
        path.relative_to(repository).as_posix(): path.read_text(encoding="utf-8")
        for room in ROOMS
        for path in sorted((repository / room).rglob("*.py"))
    }


@pytest.mark.parametrize("snippet", BAD)
def test_each_ban_is_found(snippet):
    assert BAD[snippet] in {ban for _, _, ban in banned.found_in(snippet, LIBRARY)}


@pytest.mark.parametrize("snippet", GOOD)
def test_what_looks_alike_is_not(snippet):
    assert banned.found_in(snippet, LIBRARY) == []


def test_tests_may_assert_and_adapters_have_sockets_but_no_web():
    assert banned.found_in("assert ready", TESTS) == []
    assert banned.found_in("import socket", ADAPTERS) == []
    assert banned.found_in("import requests", ADAPTERS) == [(1, "requests", NETWORK)]
    assert banned.found_in("import requests", TESTS) == [(1, "requests", NETWORK)]


def test_no_code_does_what_is_banned(sources):
    found = {
        (path, name): line for path, text in sources.items() for line, name, _ in banned.found_in(text, banned.scope_of(path))
    }

    assert {key: line for key, line in found.items() if key not in ALLOWED} == {}
    assert sorted(ALLOWED.keys() - found.keys()) == [], "an exception that nothing needs any more"
    assert len(sources) > 200


def decorators(text, name):
    """Options of each decorator of a name in a file."""
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for decorator in (decorator for function in functions for decorator in function.decorator_list):
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(called, ast.Name) and called.id == name:
            options = decorator.keywords if isinstance(decorator, ast.Call) else []
            yield {option.arg: ast.unparse(option.value) for option in options}


def test_every_task_and_flow_says_that_nothing_is_kept(sources):
    """Prefect's default can be changed from outside; what a task or flow says cannot."""
    tasks = [(path, found) for path, text in sources.items() for found in decorators(text, "task") if path.startswith("tasks/")]
    flows = [(path, found) for path, text in sources.items() for found in decorators(text, "flow") if path.startswith("flows/")]

    assert [path for path, found in (*tasks, *flows) if found.get("persist_result") != "False"] == []
    assert [path for path, found in tasks if found.get("cache_policy") != "NO_CACHE"] == []
    assert len(tasks) > 15
    assert len(flows) > 8


def test_ruff_s_own_rules_are_on(repository, tmp_path):
    names = {f"probe_{index}.py": rule for index, rule in enumerate(RUFF.values())}
    for name, snippet in zip(names, RUFF, strict=True):
        (tmp_path / name).write_text(snippet + "\n")
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "json"]
    options = ["--config", str(repository / "pyproject.toml"), "."]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, check=False)
    told = {(entry["filename"].rpartition("/")[2], entry["code"]) for entry in json.loads(done.stdout)}

    assert set(names.items()) - told == set()
