// The journal of a group of ranks: the first keeps it, all know it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "io/staging.h"

namespace vernier::calib {

class SharedJournal {
 public:
  // `journal` is read and written on the group's first rank alone; null: nothing is known, and
  // nothing kept. All ranks make theirs at the same time.
  SharedJournal(io::Journal* journal, const comm::Communicator& ranks,
                const std::vector<std::string>& keys);

  // What an earlier run kept; null for nothing.
  const io::Json* find(const std::string& key) const;
  // On the first rank, when all ranks have come here. `value` counts there only.
  void append(const std::string& key, const io::Json& value);

 private:
  io::Journal* journal_;
  const comm::Communicator& ranks_;
  std::map<std::string, io::Json> earlier_;
};

}  // namespace vernier::calib
