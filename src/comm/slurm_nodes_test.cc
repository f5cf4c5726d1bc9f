#include "comm/slurm_nodes.h"

#include <gtest/gtest.h>

namespace vernier::comm {
namespace {

TEST(SlurmNodesTest, FindTheFirst) {
  const struct {
    const char* list;
    const char* first;
  } cases[] = {
      {"node1", "node1"},
      {"a1,b2", "a1"},
      {"node[01-04,07]", "node01"},
      {"n-[3,5]", "n-3"},
      {"n[12]", "n12"},
      {"gpu[08-09],cpu[1-2]", "gpu08"},
      {"login,gpu[1-2]", "login"},
      {"n[01-02]-ib", "n01-ib"},
      {"rack[1-2]node[3-4],x", "rack1node3"},
  };
  for (const auto& good : cases) EXPECT_EQ(first_node(good.list), good.first) << good.list;
}

TEST(SlurmNodesTest, AreNoneInWhatIsNoList) {
  for (const char* list : {"", ",", "node[", "node[]", "node[,2]", "node[-2]", "[", "node]1"}) {
    EXPECT_EQ(first_node(list), std::nullopt) << list;
  }
}

}  // namespace
}  // namespace vernier::comm
