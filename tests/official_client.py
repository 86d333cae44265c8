"""What an application does with the official Elasticsearch client, unmodified. Exits non-zero at the first surprise."""

import sys

from elasticsearch import BadRequestError, ConflictError, Elasticsearch, NotFoundError, helpers

client = Elasticsearch(sys.argv[1], retry_on_timeout=False, request_timeout=30)


def check(condition, *details):
    if not condition:
        raise AssertionError(details)


info = client.info()
check(info["version"]["number"].startswith("8."), info)
check(client.ping())

client.indices.create(
    index="books",
    settings={"number_of_shards": 2, "number_of_replicas": 1},
    mappings={
        "properties": {
            "title": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
            "genre": {"type": "keyword"},
            "year": {"type": "integer"},
            "published": {"type": "date"},
        }
    },
)
check(client.indices.exists(index="books"))
check(not client.indices.exists(index="films"))

books = [
    {"title": "The Sea Around Us", "genre": "science", "year": 1951, "published": "1951-07-02"},
    {"title": "The Old Man and the Sea", "genre": "fiction", "year": 1952, "published": "1952-09-01"},
    {"title": "Moby-Dick", "genre": "fiction", "year": 1851, "published": "1851-10-18"},
    {"title": "Cod", "genre": "history", "year": 1997, "published": "1997-07-01"},
]
loaded, errors = helpers.bulk(
    client, ({"_index": "books", "_id": str(number), "_source": book} for number, book in enumerate(books)), refresh=True
)
check((loaded, errors) == (4, []), loaded, errors)

found = client.search(
    index="books",
    query={"match": {"title": "sea"}},
    aggs={"genres": {"terms": {"field": "genre"}}, "years": {"stats": {"field": "year"}}},
    highlight={"fields": {"title": {}}},
)
check(found["hits"]["total"] == {"value": 2, "relation": "eq"}, found)
check(found["hits"]["hits"][0]["_id"] == "0", found)
check("<em>Sea</em>" in found["hits"]["hits"][0]["highlight"]["title"][0], found)
check(found["aggregations"]["years"]["max"] == 1952, found)
check(sum(bucket["doc_count"] for bucket in found["aggregations"]["genres"]["buckets"]) == 2, found)

page = client.search(index="books", sort=[{"year": "desc"}], size=2, source=["year"])
check([hit["_source"] for hit in page["hits"]["hits"]] == [{"year": 1997}, {"year": 1952}], page)
page = client.search(index="books", sort=[{"year": "desc"}], size=2, search_after=page["hits"]["hits"][-1]["sort"])
check([hit["_id"] for hit in page["hits"]["hits"]] == ["0", "2"], page)

written = client.index(index="books", id="9", document={"title": "Longitude", "year": 1995}, refresh="wait_for")
check(written["result"] == "created" and written["_version"] == 1, written)
check(client.get(index="books", id="9")["_source"]["year"] == 1995)
try:
    client.create(index="books", id="9", document={})
    raise AssertionError("creating again has to conflict")
except ConflictError as error:
    check(error.body["error"]["type"] == "version_conflict_engine_exception", error.body)
try:
    client.index(index="books", document={"year": "soon"})
    raise AssertionError("a word is no year")
except BadRequestError as error:
    check(error.body["error"]["type"] == "document_parsing_exception", error.body)

# Updates: part of a document, a document where there is none, nothing to do, conditions.
changed = client.update(index="books", id="9", doc={"genre": "history", "parts": {"front": 12}}, source=True)
check((changed["result"], changed["_version"]) == ("updated", 2), changed)
check(changed["get"]["_source"] == {"title": "Longitude", "year": 1995, "genre": "history", "parts": {"front": 12}}, changed)
again = client.update(index="books", id="9", doc={"genre": "history"})
check((again["result"], again["_version"], again["_seq_no"]) == ("noop", 2, changed["_seq_no"]), again)
again = client.update(index="books", id="9", doc={"genre": "history"}, detect_noop=False)
check((again["result"], again["_version"]) == ("updated", 3), again)
made = client.update(index="books", id="10", doc={"year": 2001}, doc_as_upsert=True)
check(made["result"] == "created" and client.get(index="books", id="10")["_source"] == {"year": 2001}, made)
made = client.update(index="books", id="11", doc={"year": 1}, upsert={"year": 2002})
check(made["result"] == "created" and client.get(index="books", id="11")["_source"] == {"year": 2002}, made)
made = client.update(index="books", id="11", doc={"year": 2003}, upsert={"year": 2002}, retry_on_conflict=3)
check(made["result"] == "updated" and client.get(index="books", id="11")["_source"] == {"year": 2003}, made)
right = client.update(
    index="books", id="11", doc={"year": 2004}, if_seq_no=made["_seq_no"], if_primary_term=made["_primary_term"]
)
check(right["result"] == "updated", right)
try:
    client.update(
        index="books", id="11", doc={"year": 2005}, if_seq_no=made["_seq_no"], if_primary_term=made["_primary_term"]
    )
    raise AssertionError("it was changed since")
except ConflictError as error:
    check(error.body["error"]["type"] == "version_conflict_engine_exception", error.body)
try:
    client.update(index="books", id="9", script={"source": "ctx._source.year++"})
    raise AssertionError("there are no scripts")
except BadRequestError as error:
    check("script" in error.body["error"]["reason"], error.body)
try:
    client.update(index="books", id="12", doc={"year": 1})
    raise AssertionError("there is no such document")
except NotFoundError as error:
    check(error.body["error"]["type"] == "document_missing_exception", error.body)

# Versions that the application counts.
outside = client.index(index="books", id="13", document={"year": 7}, version=7, version_type="external")
check((outside["result"], outside["_version"]) == ("created", 7), outside)
try:
    client.index(index="books", id="13", document={"year": 6}, version=7, version_type="external")
    raise AssertionError("version 7 is there already")
except ConflictError as error:
    check(error.body["error"]["type"] == "version_conflict_engine_exception", error.body)
check(client.index(index="books", id="13", document={"year": 8}, version=7, version_type="external_gte")["_version"] == 7)
check(client.delete(index="books", id="13", version=9, version_type="external")["_version"] == 9)

# All of them in one bulk; what fails is told item by item.
actions = [
    {"_op_type": "update", "_id": "9", "doc": {"year": 1996}},
    {"_op_type": "update", "_id": "9", "doc": {"year": 1996}},
    {"_op_type": "update", "_id": "14", "doc": {"year": 14}, "doc_as_upsert": True},
    {"_op_type": "update", "_id": "15", "doc": {"year": 0}, "upsert": {"year": 15}},
    {"_op_type": "update", "_id": "16", "doc": {"year": 16}},
    {"_op_type": "update", "_id": "9", "script": {"source": "ctx._source.year++"}},
    {"_op_type": "index", "_id": "17", "_version": 3, "_version_type": "external", "_source": {"year": 17}},
    {"_op_type": "index", "_id": "17", "_version": 2, "_version_type": "external", "_source": {"year": 0}},
    {"_op_type": "delete", "_id": "10"},
]
items = [
    (item.get("result"), item["status"], item.get("error", {}).get("type"))
    for _, answer in helpers.streaming_bulk(client, actions, index="books", raise_on_error=False)
    for item in answer.values()
]
check(
    items
    == [
        ("updated", 200, None),
        ("noop", 200, None),
        ("created", 201, None),
        ("created", 201, None),
        (None, 404, "document_missing_exception"),
        (None, 400, items[5][2]),
        ("created", 201, None),
        (None, 409, "version_conflict_engine_exception"),
        ("deleted", 200, None),
    ],
    items,
)
check(client.get(index="books", id="9")["_source"]["year"] == 1996)
for number in ["11", "14", "15", "17"]:
    client.delete(index="books", id=number)

check(client.delete(index="books", id="9")["result"] == "deleted")
client.indices.refresh(index="books")
try:
    client.get(index="books", id="9")
    raise AssertionError("it was deleted")
except NotFoundError as error:
    check(error.body["found"] is False, error.body)
try:
    client.search(index="films", query={"match_all": {}})
    raise AssertionError("there is no such index")
except NotFoundError as error:
    check(error.body["error"]["type"] == "index_not_found_exception", error.body)
try:
    client.search(index="books", query={"nearly": {}})
    raise AssertionError("there is no such query")
except BadRequestError as error:
    check("nearly" in str(error.body), error.body)

many = client.mget(index="books", ids=["1", "7"])
check([document["found"] for document in many["docs"]] == [True, False], many)
answers = client.msearch(searches=[{"index": "books"}, {"query": {"match_all": {}}}, {"index": "books"}, {"query": {"term": {"genre": "history"}}}])
check([answer["hits"]["total"]["value"] for answer in answers["responses"]] == [4, 1], answers)
check(client.count(index="books", query={"range": {"year": {"gte": 1900}}})["count"] == 3)
client.indices.put_mapping(index="books", properties={"pages": {"type": "integer"}})
check(client.indices.get_mapping(index="books")["books"]["mappings"]["properties"]["pages"] == {"type": "integer"})
check(client.indices.get_settings(index="books")["books"]["settings"]["index"]["number_of_shards"] == "2")
client.indices.put_settings(index="books", settings={"index": {"trawl": {"log_size": "64mb"}, "refresh_interval": "2s"}})
settings = client.indices.get_settings(index="books", flat_settings=True)["books"]["settings"]
check((settings["index.trawl.log_size"], settings["index.refresh_interval"]) == ("67108864b", "2s"), settings)
try:
    client.indices.put_settings(index="books", settings={"number_of_shards": 3})
    raise AssertionError("the number of shards is fixed")
except BadRequestError as error:
    check("Can't update non dynamic settings [[index.number_of_shards]]" in error.body["error"]["reason"], error.body)
check(client.cluster.health(wait_for_status="green", timeout="30s")["status"] == "green")
check(any(row["index"] == "books" for row in client.cat.indices(format="json")))
check(len(client.cat.shards(index="books", format="json")) == 4)
client.indices.refresh(index="books")
again = client.update_by_query(index="books", query={"match_all": {}}, refresh=True)
check(again["updated"] == again["total"] == 4 and again["failures"] == [], again)
task = client.delete_by_query(
    index="books", query={"range": {"year": {"gte": 1900}}}, refresh=True, wait_for_completion=False
)["task"]
ended = client.tasks.get(task_id=task, wait_for_completion=True, timeout="30s")
check(ended["completed"] and ended["response"]["deleted"] == 3, ended)
check(ended["task"]["action"] == "indices:data/write/delete/byquery", ended)
check(client.count(index="books")["count"] == 1)
for year in range(30):
    client.index(index="books", id=f"y{year}", document={"year": year}, refresh=year == 29)
slow = client.delete_by_query(
    index="books", query={"match_all": {}}, scroll_size=1, requests_per_second=1, wait_for_completion=False
)["task"]
check(slow in client.tasks.list(detailed=True, actions="*byquery")["nodes"]["trawl"]["tasks"])
check("nodes" in client.tasks.cancel(task_id=slow))
ended = client.tasks.get(task_id=slow, wait_for_completion=True, timeout="30s")
check(ended["completed"] and ended["task"]["cancelled"], ended)
client.indices.delete(index="books")
check(not client.indices.exists(index="books"))
print("official client: all answers as expected")
