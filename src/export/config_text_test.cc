#include "export/config_text.h"

#include <gmock/gmock.h>

#include "io/json.h"

namespace vernier::exporting {
namespace {

TEST(ConfigText, KeepsSpellingsAndOrder) {
  const std::string text =
      R"( {"b":1e-05,"a":[0.0,Infinity],"c":{"__float__":"Infinity"}, "s" : "x\"},{\\" ,"n":null} )";
  EXPECT_EQ(join_object(split_object(text)), R"({
    "b": 1e-05,
    "a": [
        0.0,
        Infinity
    ],
    "c": {
        "__float__": "Infinity"
    },
    "s": "x\"},{\\",
    "n": null
})");
}

TEST(ConfigText, EmptyContainersStayOnOneLine) {
  EXPECT_EQ(join_object(split_object("{\"a\": [ ], \"b\": { }}")),
            "{\n    \"a\": [],\n    \"b\": {}\n}");
  EXPECT_EQ(join_object(split_object("{}")), "{}");
}

// The same layout as Python's json.dumps(indent=4), by way of io::dump_json.
TEST(ConfigText, LayoutEqualsDumpJson) {
  const std::string text = R"({"a":{"b":[1,[2,{}],{"c":"d"}],"e":[]},"f":-2.5,"g":true})";
  EXPECT_EQ(join_object(split_object(text)), io::dump_json(io::parse_json(text, "text"), 4));
}

TEST(ConfigText, SetReplacesInPlaceOrAppendsAndRemoveRemoves) {
  auto members = split_object(R"({"a":1,"b":2})");
  set_member(members, "a", "3");
  set_member(members, "c", "[4]");
  remove_member(members, "b");
  EXPECT_EQ(join_object(members, 0), "{\n\"a\": 3,\n\"c\": [\n4\n]\n}");
}

}  // namespace
}  // namespace vernier::exporting
