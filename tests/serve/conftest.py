# SPDX-License-Identifier: MIT
"""One server for all tests that change nothing about it."""

import pytest
from serving import MODEL, running

import guide_ext.integration as guide
from guide_ext.serve.settings import Settings


@pytest.fixture(scope="session")
def loaded():
    return guide.load_embedded()


@pytest.fixture(scope="session")
def server(loaded):
    with running(*loaded, Settings(MODEL)) as found:
        yield found


@pytest.fixture(scope="session")
def client(server):
    return server.client()


@pytest.fixture(scope="session")
def http(server):
    with server.http() as found:
        yield found
