#include "cli/table.h"

#include <gtest/gtest.h>

using namespace dstack;

TEST(Table, AlignsAndHasNoTrailingSpace) {
  cli::Table table({{"ID"}, {"NAME"}, {"STATUS"}});
  EXPECT_TRUE(table.empty());
  table.add({"1", "a long name", "ok"});
  table.add({"22", "b", ""});
  EXPECT_EQ(table.text(),
            "ID  NAME         STATUS\n"
            "1   a long name  ok\n"
            "22  b\n");
}

TEST(Table, CutsByCharactersNotBytes) {
  cli::Table table({{"N", 4}, {"X"}});
  table.add({"ééééé", "x"});
  table.add({"éééé", "y"});
  EXPECT_EQ(table.text(), "N     X\nééé…  x\néééé  y\n");
}

TEST(Table, EscapesControlCharacters) {
  cli::Table table({{"N"}});
  table.add({"a\x1b[31m\nb"});
  EXPECT_EQ(table.text(), "N\na\\x1b[31m\\x0ab\n");
}

TEST(Table, MissingCellsAreEmpty) {
  cli::Table table({{"A"}, {"B"}});
  table.add({"1"});
  EXPECT_EQ(table.text(), "A  B\n1\n");
}
