#include "io/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "io/json.h"

namespace vernier::io {
namespace {

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

[[noreturn]] void corrupt(const std::filesystem::path& file, std::string_view what) {
  throw Error(ErrorKind::kCorrupt, fmt::format("{}: {}", file.string(), what));
}

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == name.npos &&
         name.find('\0') == name.npos;
}

using WeightMap = std::map<std::string, std::string>;  // tensor to shard

WeightMap read_weight_map(const std::filesystem::path& index_path) {
  const Json index = read_json(index_path);
  const auto found = index.find("weight_map");  // end() too when the index is no object
  if (found == index.end() || !found->is_object()) corrupt(index_path, "has no weight_map object");
  WeightMap weight_map;
  for (const auto& member : found->items()) {
    const auto* shard = member.value().get_ptr<const std::string*>();
    if (shard == nullptr || !is_plain_file_name(*shard)) {
      corrupt(index_path,
              fmt::format("places tensor \"{}\" in {}, expected the name of a file beside "
                          "the index",
                          member.key(), dump_json(member.value())));
    }
    weight_map.emplace(member.key(), *shard);
  }
  return weight_map;
}

// Every tensor of the shard is placed there by the index.
void check_listed(const SafetensorsFile& shard, const WeightMap& weight_map) {
  const std::string file_name = shard.path().filename().string();
  for (const TensorEntry& entry : shard.header().entries) {
    const auto found = weight_map.find(entry.name);
    if (found == weight_map.end()) {
      corrupt(shard.path(),
              fmt::format("holds tensor \"{}\", which {} does not list", entry.name, kIndexFile));
    }
    if (found->second != file_name) {
      corrupt(shard.path(), fmt::format("holds tensor \"{}\", which {} places in {}", entry.name,
                                        kIndexFile, found->second));
    }
  }
}

std::vector<SafetensorsFile> open_shards(const std::filesystem::path& index_path) {
  const WeightMap weight_map = read_weight_map(index_path);
  std::set<std::string> shard_names;
  for (const auto& [tensor, shard] : weight_map) shard_names.insert(shard);

  std::vector<SafetensorsFile> shards;
  std::set<std::string_view> held;
  for (const std::string& name : shard_names) {
    const std::filesystem::path path = index_path.parent_path() / name;
    if (std::error_code ignored; !std::filesystem::exists(path, ignored)) {
      corrupt(index_path, fmt::format("names the shard {}, which is not there", name));
    }
    shards.emplace_back(path);
    check_listed(shards.back(), weight_map);
  }
  for (const SafetensorsFile& shard : shards) {
    for (const TensorEntry& entry : shard.header().entries) held.insert(entry.name);
  }
  for (const auto& [tensor, shard] : weight_map) {
    if (held.count(tensor) == 0) {
      corrupt(index_path,
              fmt::format("places tensor \"{}\" in {}, which does not hold it", tensor, shard));
    }
  }
  return shards;
}

}  // namespace

Checkpoint::Checkpoint(const std::filesystem::path& directory) : directory_(directory) {
  const std::filesystem::path single = directory / kSingleFile;
  const std::filesystem::path index = directory / kIndexFile;
  std::error_code ignored;
  if (std::filesystem::exists(single, ignored)) {
    add_file(SafetensorsFile(single));
  } else if (std::filesystem::exists(index, ignored)) {
    for (SafetensorsFile& shard : open_shards(index)) add_file(std::move(shard));
  } else {
    throw Error(ErrorKind::kNotFound, fmt::format("{}: holds neither {} nor {}", directory.string(),
                                                  kSingleFile, kIndexFile));
  }
  std::sort(names_.begin(), names_.end());
}

void Checkpoint::add_file(SafetensorsFile file) {
  const std::vector<TensorEntry>& entries = file.header().entries;
  for (size_t entry = 0; entry < entries.size(); ++entry) {
    names_.push_back(entries[entry].name);
    places_.emplace(entries[entry].name, Place{files_.size(), entry});
  }
  files_.push_back(std::move(file));
}

bool Checkpoint::contains(std::string_view name) const {
  return places_.count(std::string(name)) > 0;
}

TensorView Checkpoint::tensor(std::string_view name) const {
  const Place& place = find(name);
  const SafetensorsFile& file = files_[place.file];
  return file.view(file.header().entries[place.entry]);
}

const std::filesystem::path& Checkpoint::file_of(std::string_view name) const {
  return files_[find(name).file].path();
}

int64_t Checkpoint::file_bytes() const {
  int64_t total = 0;
  for (const SafetensorsFile& file : files_) total += file.file_bytes();
  return total;
}

const Checkpoint::Place& Checkpoint::find(std::string_view name) const {
  const auto found = places_.find(std::string(name));
  if (found == places_.end()) {
    throw Error(ErrorKind::kNotFound,
                fmt::format("{}: has no tensor \"{}\"", directory_.string(), name));
  }
  return found->second;
}

}  // namespace vernier::io
