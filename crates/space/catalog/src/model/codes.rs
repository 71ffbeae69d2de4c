//! The closed vocabularies of catalog records: the code tables T2, T3, T4 and T6 (NDI-TR-2025-06 sections 7.1 and
//! 8.2; their names live in `huitong_ids::tables`), and the words for which no table gives a code.

use huitong_ids::tables::{self, Table};

/// Declares an enum whose every value is one row of a national code table.
macro_rules! coded {
    ($(#[$about:meta])* $name:ident of $table:ident { $( $(#[$doc:meta])* $variant:ident = $code:literal; )+ }) => {
        vocabulary! { @base $(#[$about])* $name { $( $(#[$doc])* $variant = $code; )+ } }

        impl $name {
            const TABLE: &'static Table = &tables::$table;

            /// The name in Chinese, as the table prints it.
            pub fn chinese(self) -> &'static str {
                Self::TABLE.find(self.code()).map_or("", |entry| entry.chinese)
            }

            /// The name in English, as the table prints it.
            pub fn english(self) -> &'static str {
                Self::TABLE.find(self.code()).map_or("", |entry| entry.english)
            }
        }
    };
}

/// Declares an enum whose every value has one word on the wire and a name in two languages.
macro_rules! vocabulary {
    (@base $(#[$about:meta])* $name:ident { $( $(#[$doc:meta])* $variant:ident = $code:literal; )+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $( $(#[$doc])* #[doc = concat!("On the wire `", $code, "`.")] $variant, )+
        }

        impl $name {
            /// Every value, in the order of the table.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )+];

            /// The code on the wire.
            pub fn code(self) -> &'static str {
                match self { $( Self::$variant => $code, )+ }
            }

            /// Reads the code back; `None` for anything that is not in the table.
            pub fn from_code(code: &str) -> Option<Self> {
                match code { $( $code => Some(Self::$variant), )+ _ => None }
            }

            /// Every accepted code, for messages that say what was expected.
            pub fn codes() -> String {
                [$( $code, )+].join(", ")
            }
        }
    };
    ($(#[$about:meta])* $name:ident { $( $variant:ident = $code:literal, $chinese:literal, $english:literal; )+ }) => {
        vocabulary! { @base $(#[$about])* $name { $( #[doc = concat!($chinese, ", ", $english, ".")] $variant = $code; )+ } }

        impl $name {
            /// The name in Chinese.
            pub fn chinese(self) -> &'static str {
                match self { $( Self::$variant => $chinese, )+ }
            }

            /// The name in English.
            pub fn english(self) -> &'static str {
                match self { $( Self::$variant => $english, )+ }
            }
        }
    };
}

vocabulary! {
    /// Whose kind of data it is (数据类别).
    Ownership {
        Public = "public", "公共数据", "public data";
        Enterprise = "enterprise", "企业数据", "enterprise data";
        Personal = "personal", "个人数据", "personal data";
    }
}

coded! {
    /// How the holder came by the data (数据来源), table T2.
    Origin of ORIGINS {
        /// 原始取得, originally acquired.
        Original = "001";
        /// 收集取得, collected.
        Collected = "002";
        /// 交易取得, acquired by trade.
        Traded = "003";
        /// 其他, other.
        Other = "004";
    }
}

coded! {
    /// In which form a product is delivered (交付形式), table T3.
    DeliveryForm of DELIVERY_FORMS {
        /// 数据集, dataset.
        Dataset = "001";
        /// API产品, API product.
        Api = "002";
        /// 数据应用, data application.
        Application = "003";
        /// 数据报告, data report.
        Report = "004";
        /// 数据对象, data object.
        Object = "005";
        /// 其他, other.
        Other = "006";
    }
}

coded! {
    /// How often the data change (更新频率), table T4.
    UpdateFrequency of UPDATE_FREQUENCIES {
        /// 实时, real time.
        RealTime = "001";
        /// 每日, daily.
        Daily = "002";
        /// 每周, weekly.
        Weekly = "003";
        /// 每月, monthly.
        Monthly = "004";
        /// 每季度, quarterly.
        Quarterly = "005";
        /// 每半年, every half year.
        Semiannual = "006";
        /// 每年, annual.
        Annual = "007";
        /// 不定期, irregular.
        Irregular = "008";
        /// 历史数据, historical.
        Historical = "009";
    }
}

coded! {
    /// Security level (安全等级), table T6, from least to most protected.
    SecurityLevel of SECURITY_LEVELS {
        /// 公开, public.
        Public = "001";
        /// 内部, internal.
        Internal = "002";
        /// 敏感, sensitive.
        Sensitive = "003";
        /// 机密, confidential.
        Confidential = "004";
        /// 绝密, top secret.
        TopSecret = "005";
    }
}

vocabulary! {
    /// Grade (数据级别) of GB/T 43697-2024, from least to most protected.
    Grade {
        General = "general", "一般数据", "general data";
        Important = "important", "重要数据", "important data";
        Core = "core", "核心数据", "core data";
    }
}

vocabulary! {
    /// The form the resource has at its holder (资源格式).
    DataFormat {
        File = "file", "电子文件", "file";
        Table = "table", "表格", "table";
        Database = "database", "数据库", "database";
        Graphic = "graphic", "图形", "graphic";
        Media = "media", "流媒体", "streaming media";
        SelfDescribed = "self-described", "自描述", "self-described";
    }
}

vocabulary! {
    /// Whether personal information is in the data (是否涉及个人信息).
    PersonalInformation {
        Absent = "absent", "不涉及个人信息", "no personal information";
        Present = "present", "涉及个人信息", "contains personal information";
    }
}

impl PersonalInformation {
    /// The flag in records.
    pub fn is_present(self) -> bool {
        match self {
            Self::Absent => false,
            Self::Present => true,
        }
    }

    pub(crate) fn from_flag(flag: bool) -> Self {
        if flag { Self::Present } else { Self::Absent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        macro_rules! check {
            ($($name:ident = $count:literal),+ $(,)?) => {
                $(
                    assert_eq!($name::ALL.len(), $count, stringify!($name));
                    for value in $name::ALL {
                        assert_eq!($name::from_code(value.code()), Some(*value));
                        assert!(!value.chinese().is_empty() && !value.english().is_empty());
                    }
                    assert_eq!($name::from_code(""), None);
                    assert_eq!($name::from_code("000"), None);
                )+
            };
        }
        check!(
            Ownership = 3,
            Origin = 4,
            DeliveryForm = 6,
            UpdateFrequency = 9,
            SecurityLevel = 5,
            Grade = 3,
            DataFormat = 6,
            PersonalInformation = 2,
        );
        macro_rules! check_table {
            ($($name:ident),+) => {
                $(
                    let table: Vec<&str> = $name::TABLE.entries.iter().map(|entry| entry.code).collect();
                    let ours: Vec<&str> = $name::ALL.iter().map(|value| value.code()).collect();
                    assert_eq!(ours, table, stringify!($name));
                )+
            };
        }
        check_table!(Origin, DeliveryForm, UpdateFrequency, SecurityLevel);
        assert!(SecurityLevel::TopSecret > SecurityLevel::Confidential);
        assert!(Grade::Core > Grade::Important && Grade::Important > Grade::General);
        assert_eq!(SecurityLevel::codes(), "001, 002, 003, 004, 005");
    }
}
