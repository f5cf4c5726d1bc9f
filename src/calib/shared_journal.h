// The journal of a pipeline stage: its first rank keeps it, all of its ranks know it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "io/staging.h"

namespace vernier::calib {

class StageJournal {
 public:
  // `journal` is read and written on the stage's first rank alone; null: nothing is known, and
  // nothing kept. All ranks of the stage make theirs at the same time.
  StageJournal(io::Journal* journal, const comm::Communicator& stage,
               const std::vector<std::string>& keys);

  // What an earlier run kept; null for nothing.
  const io::Json* find(const std::string& key) const;
  // On the first rank, when all ranks have come here. `value` counts there only.
  void append(const std::string& key, const io::Json& value);

 private:
  io::Journal* journal_;
  const comm::Communicator& stage_;
  std::map<std::string, io::Json> earlier_;
};

}  // namespace vernier::calib
