#include "search/search_report.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "io/json.h"
#include "search/report_parts.h"
#include "search/search_figures.h"
#include "search/test_search.h"

namespace vernier::search {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr const char* kSmallPattern = "MEMEM*EMEMEM*E";
constexpr const char* kLargePattern =
    "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*"
    "EMEMEMEMEM-M-M-M-M-";

// Why the markup is not a tree of elements, each closed by its own name; empty where it is.
std::string fault_of(const std::string& html) {
  std::vector<std::string> open;
  for (size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const size_t end = html.find('>', at);
    if (end == std::string::npos) return "a tag without an end";
    const std::string tag = html.substr(at + 1, end - at - 1);
    if (tag.find('<') != std::string::npos) return "a tag within a tag: " + tag;
    if (std::ranges::count(tag, '"') % 2 != 0) return "an open quote: " + tag;
    if (tag.starts_with("!") || tag.ends_with("/")) continue;
    const std::string name = tag.substr(0, tag.find_first_of(" \n"));
    if (!name.starts_with("/")) {
      open.push_back(name);
    } else if (open.empty() || open.back() != name.substr(1)) {
      return fmt::format("<{}> closes <{}>", name, open.empty() ? "nothing" : open.back());
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : "not closed: " + open.back();
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// Of UTF-8 text, in characters.
size_t longest_line(const std::string& text) {
  std::istringstream lines(text);
  size_t longest = 0;
  for (std::string line; std::getline(lines, line);) {
    const auto width = std::ranges::count_if(line, [](char byte) { return (byte & 0xC0) != 0x80; });
    longest = std::max(longest, static_cast<size_t>(width));
  }
  return longest;
}

ScoredGroup group_named(std::string name, int layer, std::string kind, bool is_routed = false) {
  return {.name = std::move(name), .layer = layer, .kind = std::move(kind), .is_routed = is_routed};
}

TEST(ReportParts, FamiliesComeFromNames) {
  EXPECT_EQ(family_of(group_named("backbone.layers.12.mixer.in_proj", 12, "mamba")),
            "mamba in_proj");
  EXPECT_EQ(family_of(group_named("backbone.layers.5.mixer.qkv_proj", 5, "attention")),
            "attention qkv_proj");
  EXPECT_EQ(family_of(group_named("backbone.layers.1.mixer.shared_experts.up_proj", 1, "moe")),
            "shared_experts up_proj");
  EXPECT_EQ(family_of(group_named("backbone.layers.1.mixer.fc1_latent_proj", 1, "moe")),
            "moe fc1_latent_proj");
  EXPECT_EQ(family_of(group_named("backbone.layers.1.mixer.experts", 1, "routed experts", true)),
            "routed experts");
  EXPECT_EQ(family_of(group_named("lm_head", -1, "head")), "head");
  EXPECT_EQ(family_of(group_named("odd", 3, "mlp")), "mlp odd");
}

TEST(ReportParts, FamiliesHoldEveryGroupOnceInNetworkOrder) {
  const MadeUpScores made_up(kSmallPattern);
  const std::vector<Family> families = families_of(made_up.scores);
  std::vector<std::string> names;
  std::vector<size_t> groups;
  for (const Family& family : families) {
    names.push_back(family.name);
    groups.insert(groups.end(), family.groups.begin(), family.groups.end());
  }
  EXPECT_THAT(names, ElementsAre("mamba in_proj", "mamba out_proj", "routed experts",
                                 "shared_experts up_proj", "shared_experts down_proj",
                                 "attention qkv_proj", "attention o_proj", "head"));
  std::ranges::sort(groups);
  EXPECT_EQ(groups, all_groups(made_up.scores));
}

TEST(ReportParts, UsesSumToTheAllocation) {
  const MadeUpReport made_up(kSmallPattern);
  const SearchReport& report = made_up.report;
  const Allocation& allocation = report.allocations.front().allocation;
  GroupSums sums;
  for (const CandidateUse& use : uses_of(report, all_groups(report.scores), allocation.chosen)) {
    sums.n_groups += use.sums.n_groups;
    sums.n_weights += use.sums.n_weights;
    sums.stored_bits += use.sums.stored_bits;
    sums.predicted_kl += use.sums.predicted_kl;
  }
  // Sums in another order: a few units in the last place.
  EXPECT_EQ(sums.n_groups, std::ssize(report.scores.groups));
  EXPECT_NEAR(sums.bits_per_weight(), allocation.bits, 1e-12 * allocation.bits);
  EXPECT_NEAR(sums.predicted_kl, allocation.predicted_kl, 1e-12 * allocation.predicted_kl);
}

TEST(ReportParts, SmallestCandidateHasFewestBitsThenLeastLoss) {
  const MadeUpReport made_up(kSmallPattern);
  const SearchReport& report = made_up.report;
  for (const size_t group : all_groups(report.scores)) {
    const Candidate* smallest = smallest_candidate(report, group);
    EXPECT_EQ(smallest->bits_per_weight, 4.5);
    for (const char* name : {"nvfp4", "nvfp4_sweep", "nvfp4_four_over_six"}) {
      EXPECT_LE(report.allocator.score(group, smallest),
                report.allocator.score(group, &find_candidate(name)));
    }
  }
}

TEST(ReportParts, LossesAsText) {
  EXPECT_EQ(kl_text(0), "0");
  EXPECT_EQ(kl_text(0.02271), "0.0227");
  EXPECT_EQ(kl_text(1.2345), "1.23");
  EXPECT_EQ(kl_text(250.4), "250");
  EXPECT_EQ(kl_text(0.001), "0.00100");
  EXPECT_EQ(kl_text(1.23e-5), "1.2e-5");
  EXPECT_EQ(kl_text(4e-12), "4.0e-12");
  EXPECT_EQ(kl_text(INFINITY), "inf");
  EXPECT_EQ(kl_text(eval::Estimate{0.0227, 0.00081}), "0.0227 ± 0.0008");
  EXPECT_EQ(kl_text(eval::Estimate{0.0227, 0.00001}), "0.0227 ± 1e-5");
  EXPECT_EQ(kl_text(eval::Estimate{1.2e-5, 3.1e-7}), "1.2e-5 ± 3e-7");
  EXPECT_EQ(kl_text(eval::Estimate{0.0227, 0}), "0.0227 ± 0");
  EXPECT_EQ(share_text(1, 8), "12.5 %");
  EXPECT_EQ(share_text(1, 8000), "< 0.1 %");
  EXPECT_EQ(share_text(0, 8), "0 %");
}

TEST(ReportParts, MarksTellCandidatesOfEqualBitsApart) {
  const MadeUpReport made_up(kSmallPattern);
  const auto mark = [&](const char* name) {
    return mark_of(made_up.report, &find_candidate(name));
  };
  EXPECT_EQ(mark_of(made_up.report, nullptr), "16");
  EXPECT_EQ(mark("fp8"), "8");
  EXPECT_EQ(mark("nvfp4"), "4a");
  EXPECT_EQ(mark("nvfp4_sweep"), "4b");
}

class SearchReportForms : public ::testing::TestWithParam<const char*> {};

TEST_P(SearchReportForms, TextFitsTheTerminal) {
  MadeUpReport made_up(GetParam());
  made_up.report.allocations.front().budget = "4.75 bits a weight, 6 active bits, 12.5 ms prefill";
  made_up.report.allocations.front().recipe_file = std::string(120, 'd') + "/auto.yaml";
  const std::string text = report_text(made_up.report, 80);
  EXPECT_LE(longest_line(text), 80u) << text;
  for (const Family& family : families_of(made_up.report.scores)) {
    EXPECT_THAT(text, HasSubstr("\n" + family.name + "  "));
  }
  EXPECT_THAT(text, HasSubstr("searched/auto_5.5_bits.yaml"));
}

TEST_P(SearchReportForms, PageIsWellFormedAndSelfContained) {
  const MadeUpReport made_up(GetParam());
  const std::string html = report_html(made_up.report);
  EXPECT_THAT(html, StartsWith("<!DOCTYPE html>"));
  EXPECT_EQ(fault_of(html), "");
  for (const char* outside : {"http", "<script", "<link", "<img", "@import", "url(", "src="}) {
    EXPECT_EQ(count_of(html, outside), 0u) << outside;
  }
  // What a drawing cannot place must not reach it.
  for (const char* number : {"\"nan", "\"inf", "\"-inf", ",nan", ",inf", "nan,", "inf,"}) {
    EXPECT_EQ(count_of(html, number), 0u) << number;
  }
}

TEST_P(SearchReportForms, PageHoldsEveryGroupInEveryMap) {
  const MadeUpReport made_up(GetParam());
  const std::string html = report_html(made_up.report);
  for (const ScoredGroup& group : made_up.report.scores.groups) {
    EXPECT_THAT(html, HasSubstr("<code>" + group.name + "</code>"));
    // One cell in each allocation's map, one in the map of prices.
    EXPECT_EQ(count_of(html, "<title>" + group.name + ": "), made_up.report.allocations.size() + 1)
        << group.name;
    for (const Candidate* candidate : made_up.report.scores.candidates) {
      EXPECT_EQ(count_of(html, fmt::format("<title>{}, {}: ", group.name, candidate->name)), 1u);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Networks, SearchReportForms,
                         ::testing::Values("", "M", "-", kSmallPattern, kLargePattern));

TEST(SearchReport, NamesAreEscaped) {
  MadeUpReport made_up(kSmallPattern);
  made_up.made_up.scores.model = "a <b> & \"c\"";
  made_up.made_up.scores.groups[0].name = "backbone.layers.0.mixer.<script>&";
  made_up.report.allocations[0].budget = "< 5 bits & more";
  made_up.report.comparisons[0].label = "</svg>";
  made_up.report.allocations[0].recipe_file = "<i>.yaml";
  const std::string html = report_html(made_up.report);
  EXPECT_EQ(fault_of(html), "");
  EXPECT_THAT(html, HasSubstr("a &lt;b&gt; &amp; &quot;c&quot;"));
  EXPECT_THAT(html, HasSubstr("&lt; 5 bits &amp; more"));
  EXPECT_THAT(html, HasSubstr("&lt;i&gt;.yaml"));
  for (const char* raw : {"<script>", "< 5 bits", "<b>", "<i>"}) {
    EXPECT_THAT(html, Not(HasSubstr(raw)));
  }
}

TEST(SearchReport, PageAndTextAreCompleteWithoutAllocations) {
  MadeUpReport made_up(kSmallPattern);
  made_up.report.allocations.clear();
  made_up.report.comparisons.clear();
  const std::string html = report_html(made_up.report);
  EXPECT_EQ(fault_of(html), "");
  EXPECT_THAT(html, HasSubstr("<h2>Frontier</h2>"));
  EXPECT_THAT(html, Not(HasSubstr("<h2>Allocation</h2>")));
  EXPECT_THAT(html, Not(HasSubstr("<h2>Predicted against measured</h2>")));
  made_up.report.frontier.clear();
  EXPECT_THAT(report_html(made_up.report), Not(HasSubstr("<h2>Frontier</h2>")));
  EXPECT_THAT(report_text(made_up.report, 80), StartsWith("most sensitive groups"));
}

TEST(SearchReport, LossesThatHaveNoLogarithmAreStillReported) {
  MadeUpReport made_up(kSmallPattern);
  for (ScoredGroup& group : made_up.made_up.scores.groups) {
    for (std::optional<Score>& score : group.scores) score = Score{};
  }
  made_up.made_up.scores.groups[1].scores[0].reset();
  made_up.report.comparisons = {{"nothing lost", 16, 0, 0}, {"broken", 4.5, 0, NAN}};
  made_up.report.frontier = {{4.5, 0}};
  for (ReportedAllocation& row : made_up.report.allocations) {
    row.allocation.chosen.assign(row.allocation.chosen.size(), nullptr);
    row.allocation.predicted_kl = 0;
    row.measured_kl = eval::Estimate{NAN, NAN};
  }
  const std::string html = report_html(made_up.report);
  EXPECT_EQ(fault_of(html), "");
  EXPECT_EQ(count_of(html, "\"nan"), 0u);
  EXPECT_EQ(count_of(html, "\"-inf"), 0u);
  EXPECT_THAT(html, HasSubstr("nothing lost"));
  EXPECT_LE(longest_line(report_text(made_up.report, 80)), 80u);
}

TEST(SearchReport, OneBudgetNeedsNoChoice) {
  MadeUpReport made_up(kSmallPattern);
  made_up.report.allocations.resize(1);
  const std::string html = report_html(made_up.report);
  EXPECT_EQ(fault_of(html), "");
  EXPECT_EQ(count_of(html, "<input"), 0u);
  EXPECT_THAT(html, HasSubstr("Formats at 4.75 bits a weight"));
}

TEST(SearchReport, TextNamesTheMostSensitiveGroups) {
  const MadeUpReport made_up(kSmallPattern);
  const std::vector<size_t> order = by_sensitivity(made_up.report);
  const std::string text = report_text(made_up.report, 80);
  const std::string tail = text.substr(text.find("most sensitive groups"));
  EXPECT_EQ(std::ranges::count(tail, '\n'), 3 + 10);
  const Candidate* smallest = smallest_candidate(made_up.report, order[0]);
  const std::string loss = kl_text(made_up.report.allocator.score(order[0], smallest));
  const size_t first_row = tail.find('\n', tail.find("---")) + 1;
  EXPECT_THAT(tail.substr(first_row, tail.find('\n', first_row) - first_row), HasSubstr(loss));
}

TEST(SearchReport, JsonHoldsTheNumbersOfTheStructs) {
  const MadeUpReport made_up(kSmallPattern);
  const SearchReport& report = made_up.report;
  // Through text and back: what a program reads.
  const io::Json json = io::parse_json(io::dump_json(to_json(report)), "report");
  EXPECT_EQ(json.at("score_kind"), "gauss-newton");
  ASSERT_EQ(json.at("allocations").size(), report.allocations.size());
  for (size_t index = 0; index < report.allocations.size(); ++index) {
    const ReportedAllocation& row = report.allocations[index];
    const io::Json& found = json.at("allocations")[index];
    EXPECT_EQ(found.at("budget"), row.budget);
    EXPECT_EQ(found.at("bits").get<double>(), row.allocation.bits);
    EXPECT_EQ(found.at("active_bits").get<double>(), row.allocation.active_bits);
    EXPECT_EQ(found.at("predicted_kl").get<double>(), row.allocation.predicted_kl);
    EXPECT_EQ(found.at("recipe"), row.recipe_file);
    EXPECT_EQ(found.at("measured_kl").is_null(), !row.measured_kl.has_value());
    if (row.measured_kl) {
      EXPECT_EQ(found.at("measured_kl").at("mean").get<double>(), row.measured_kl->mean);
    }
    for (size_t group = 0; group < report.scores.groups.size(); ++group) {
      EXPECT_EQ(found.at("chosen").at(report.scores.groups[group].name),
                name_of(row.allocation.chosen[group]));
    }
  }
  ASSERT_EQ(json.at("frontier").size(), report.frontier.size());
  for (size_t index = 0; index < report.frontier.size(); ++index) {
    EXPECT_EQ(json.at("frontier")[index].at("bits").get<double>(), report.frontier[index].bits);
    EXPECT_EQ(json.at("frontier")[index].at("predicted_kl").get<double>(),
              report.frontier[index].predicted_kl);
  }
  ASSERT_EQ(json.at("comparisons").size(), report.comparisons.size());
  EXPECT_EQ(json.at("comparisons")[0].at("measured_kl").get<double>(),
            report.comparisons[0].measured_kl);
  for (size_t group = 0; group < report.scores.groups.size(); ++group) {
    EXPECT_EQ(json.at("groups")[group].at("name"), report.scores.groups[group].name);
    EXPECT_EQ(json.at("groups")[group].at("scores").at("fp8").get<double>(),
              report.scores.groups[group].scores[0]->gauss_newton);
  }
}

}  // namespace
}  // namespace vernier::search
