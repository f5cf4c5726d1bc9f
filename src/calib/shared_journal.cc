#include "calib/shared_journal.h"

#include "io/json.h"

namespace vernier::calib {

SharedJournal::SharedJournal(io::Journal* journal, const comm::Communicator& ranks,
                             const std::vector<std::string>& keys)
    : journal_(ranks.rank() == 0 ? journal : nullptr), ranks_(ranks) {
  io::Json known = io::Json::object();
  for (const std::string& key : keys) {
    const io::Json* value = journal_ == nullptr ? nullptr : journal_->find(key);
    if (value != nullptr) known[key] = *value;
  }
  const io::Json shared = io::parse_json(ranks.broadcast(io::dump_json(known), 0), "the journal");
  for (const auto& [key, value] : shared.items()) earlier_[key] = value;
}

const io::Json* SharedJournal::find(const std::string& key) const {
  const auto found = earlier_.find(key);
  return found == earlier_.end() ? nullptr : &found->second;
}

void SharedJournal::append(const std::string& key, const io::Json& value) {
  ranks_.barrier();
  if (journal_ != nullptr) journal_->append(key, value);
}

}  // namespace vernier::calib
