"""The control plane's answers, and what `firectl` prints: what is read of them."""

import json

import pytest
from fireworks.types.deployment import Deployment as Theirs
from fireworks.types.deployment_list_params import DeploymentListParams
from hypothesis import given
from hypothesis import strategies as st

from smartroute.fireworks import (
    PAGE_SIZE,
    READ_MASKS,
    Deployment,
    account_id,
    api_base,
    deployments_path,
    read_page,
    read_text,
)
from tests.control_plane import DIRECT_KEY, deployment
from tests.firectl import as_json, as_text

WHOLE = deployment("abcd1234")
READ = Deployment(
    name="accounts/my-account/deployments/abcd1234",
    state="READY",
    region="US_ARIZONA_1",
    ready=2,
    type="INTERNET",
    handle="my-account-abcd1234.us-arizona-1.direct.fireworks.ai",
    base="accounts/fireworks/models/llama-v3p1-8b-instruct",
)


def test_the_read_masks_ask_for_fields_that_there_are_and_for_no_keys() -> None:
    camel, snake = (mask.split(",") for mask in READ_MASKS)
    known = {field.alias or name: name for name, field in Theirs.model_fields.items()}
    assert [known[name] for name in camel] == snake
    assert not [name for name in camel + snake if "key" in name.lower()]


def test_what_is_asked_is_what_the_sdk_asks() -> None:
    assert deployments_path("my-account") == "/v1/accounts/my-account/deployments"
    assert {"page_size", "page_token", "read_mask"} <= set(DeploymentListParams.__annotations__)
    assert PAGE_SIZE == 200


def test_a_page() -> None:
    page = read_page({"deployments": [WHOLE, deployment("efgh5678")], "nextPageToken": "x", "totalSize": 3})
    assert page == ((READ, read_page([deployment("efgh5678")])[0][0]), "x")
    assert DIRECT_KEY not in repr(page)


@pytest.mark.parametrize("document", [{}, [], {"deployments": []}, {"nextPageToken": "", "totalSize": 0}])
def test_a_page_without_deployments(document: object) -> None:
    assert read_page(document) == ((), None)


@pytest.mark.parametrize("document", [None, 7, "text", {"code": 5, "message": "no"}, {"deployments": {}}, [WHOLE, 7]])
def test_what_is_no_page(document: object) -> None:
    with pytest.raises(ValueError, match="no deployments"):
        read_page(document)


def test_firectl_as_json() -> None:
    assert read_page(json.loads(as_json(WHOLE))) == ((READ,), None)
    assert read_page(json.loads(as_json(WHOLE))[0]) == ((READ,), None)


def test_firectl_as_text() -> None:
    assert read_text(as_text(WHOLE)) == (READ,)
    assert DIRECT_KEY in as_text(WHOLE)
    assert DIRECT_KEY not in repr(read_text(as_text(WHOLE)))


def test_several_of_them_with_other_lines_between() -> None:
    text = f"A new version is available!\n{as_text(WHOLE)}\n\n{as_text(deployment('efgh5678', 'AP_TOKYO_1'))}done.\n"
    first, second = read_text(text)
    assert first == READ
    assert (second.id, second.region) == ("efgh5678", "AP_TOKYO_1")


def test_the_lines_that_the_vendors_page_shows_are_enough() -> None:
    text = (
        "Name: accounts/my-account/deployments/abcd1234\n...\n"
        "Direct Route Handle: my-account-abcd1234.us-arizona-1.direct.fireworks.ai\nRegion: US_ARIZONA_1\n"
    )
    assert read_text(text) == (READ._replace(state=None, ready=None, base=None),)


def test_a_handle_alone_tells_its_type_and_region() -> None:
    (found,) = read_text("Direct Route Handle: my-account-abcd1234.us-arizona-1.direct.fireworks.ai")
    assert (found.name, found.id, found.type, found.region) == ("", "my-account-abcd1234", "INTERNET", "US_ARIZONA_1")


def test_an_indented_region_is_the_placements() -> None:
    document = {**WHOLE, "placement": {"region": "EU_PARIS_1"}}
    assert [each.region for each in read_text(as_text(document))] == ["US_ARIZONA_1"]
    del document["region"]
    assert [each.region for each in read_text(as_text(document))] == ["EU_PARIS_1"]


@pytest.mark.parametrize(
    "text", ["", "Error: not found\n", "NAME  STATE\nabcd1234  READY\n", "Name: accounts/a/models/m"]
)
def test_text_without_a_deployment(text: str) -> None:
    with pytest.raises(ValueError, match="no deployments"):
        read_text(text)


@pytest.mark.parametrize(
    ("fields", "ready"),
    [
        ({"replicaStats": {"readyReplicaCount": 3}}, 3),
        ({"replicaStats": {"readyReplicaCount": "3"}}, 3),
        ({"replicaStats": {}}, 0),  # what is zero is left out
        ({"replicaStats": None}, None),
        ({"replicaStats": {"readyReplicaCount": -1}}, 0),
    ],
)
def test_ready_replicas(fields: dict[str, object], ready: int | None) -> None:
    document = {**WHOLE, **fields}
    assert read_page([{key: value for key, value in document.items() if value is not None}])[0][0].ready == ready


@pytest.mark.parametrize(
    ("field", "value", "read"),
    [
        ("state", "STATE_UNSPECIFIED", "state"),
        ("state", "\x1b[31mREADY", "state"),
        ("region", "REGION_UNSPECIFIED", "region"),
        ("directRouteType", "DIRECT_ROUTE_TYPE_UNSPECIFIED", "type"),
        ("directRouteHandle", 'x"; rm -rf /; ".us-iowa-1.direct.fireworks.ai', "handle"),
        ("directRouteHandle", "a-b.c.d.e.direct.fireworks.ai", "handle"),
        ("directRouteHandle", "", "handle"),
        ("baseModel", 'accounts/x/models/"$(reboot)', "base"),
        ("baseModel", "accounts/x/models/m\nexport EVIL=1", "base"),
    ],
)
def test_what_is_odd_is_not_let_through(field: str, value: str, read: str) -> None:
    document = {**WHOLE, field: value, "placement": {}}
    if field == "directRouteType":
        document["directRouteHandle"] = ""
    if field == "region":
        document["directRouteHandle"] = "my-account-abcd1234.direct.fireworks.ai"
    (found,) = read_page([document])[0]
    assert getattr(found, read) is None


def test_a_name_that_is_odd_is_none() -> None:
    assert read_page([{**WHOLE, "name": "accounts/a/deployments/`x`"}])[0][0].name == ""


@pytest.mark.parametrize(
    ("kind", "handle"),
    [
        ("GCP_PRIVATE_SERVICE_CONNECT", "projects/fw/regions/us-central1/serviceAttachments/psc-abcd1234"),
        ("AWS_PRIVATELINK", "com.amazonaws.vpce.us-east-1.vpce-svc-0123456789abcdef0"),
    ],
)
def test_private_handles_are_kept_as_they_are(kind: str, handle: str) -> None:
    (found,) = read_page([{**WHOLE, "directRouteType": kind, "directRouteHandle": handle}])[0]
    assert (found.type, found.handle) == (kind, handle)


def test_states_that_do_not_come_back() -> None:
    assert [READ._replace(state=state).gone for state in ("READY", "CREATING", "UPDATING", None)] == [False] * 4
    assert [READ._replace(state=state).gone for state in ("DELETING", "DELETED", "FAILED")] == [True] * 3


@pytest.mark.parametrize(("given", "account"), [("my-account", "my-account"), (" accounts/my-account ", "my-account")])
def test_the_id_of_an_account(given: str, account: str) -> None:
    assert account_id(given) == account


@pytest.mark.parametrize("given", ["", "a b", "../admin", "accounts/", "a/b", "a?x=1", "accounts/a/deployments/d"])
def test_what_is_no_account(given: str) -> None:
    with pytest.raises(ValueError, match="not the id of an account"):
        account_id(given)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/inference", "/inference/v1", "/inference/v1/"])
def test_the_control_plane_of_a_base_url(suffix: str) -> None:
    assert api_base(f"https://api.fireworks.ai{suffix}") == "https://api.fireworks.ai"


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    for form in (text, f"Name: accounts/a/deployments/{text}", f"Direct Route Handle: {text}\n  {text}: {text}"):
        try:
            found = read_text(form)
        except ValueError:
            continue
        assert all(value is None or isinstance(value, int) or value.isprintable() for each in found for value in each)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*WHOLE, "deployments", "x"]), inner),
    max_leaves=20,
)


@given(json_values)
def test_any_document_is_read_or_refused(document: object) -> None:
    try:
        deployments, _ = read_page(document)
    except ValueError:
        return
    assert all(isinstance(each, Deployment) for each in deployments)
