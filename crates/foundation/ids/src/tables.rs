//! The public code tables that catalog records refer to (NDI-TR-2025-06 sections 7.1 and 8.2), the provinces of
//! GB/T 2260 and the sections of GB/T 4754.
//!
//! Codes are wire values and must not change. English names in camel case (`realTime`, `level1`) are the documents' own
//! and may appear on the wire. All other English names, and the Chinese names in T4, T5 and T7, are for people to read.

/// One code table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Table {
    /// What the table is about, in Chinese.
    pub chinese: &'static str,
    /// What the table is about, in English.
    pub english: &'static str,
    /// The rows, in the order of their codes.
    pub entries: &'static [Entry],
}

/// One row of a code table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The code as it stands in records.
    pub code: &'static str,
    /// The Chinese name.
    pub chinese: &'static str,
    /// The English name.
    pub english: &'static str,
}

impl Table {
    /// The row of a code, compared exactly.
    pub fn find(&self, code: &str) -> Option<&'static Entry> {
        self.entries.iter().find(|entry| entry.code == code)
    }

    /// The major class (大类) above a middle class, in [`TOPICS`] and [`SCENARIOS`]: `A0000` for `A0100`. `None` for a
    /// major class, for a code the table does not hold, and in the flat tables.
    pub fn parent(&self, code: &str) -> Option<&'static Entry> {
        let (first, rest) = self.find(code)?.code.split_at_checked(1)?;
        if rest == "0000" || rest.len() != 4 {
            return None;
        }
        self.entries.iter().find(|entry| entry.code.strip_prefix(first) == Some("0000"))
    }
}

/// The section (门类) of a two-digit major class (大类), `"01"` to `"97"`, of GB/T 4754-2017.
pub fn industry_section(class: &str) -> Option<&'static Entry> {
    let is_class = class.len() == 2 && class.bytes().all(|byte| byte.is_ascii_digit());
    if !is_class || class == "00" {
        return None;
    }
    let (_, letter) = SECTION_ENDS.iter().find(|(last, _)| class <= *last)?;
    INDUSTRY_SECTIONS.find(letter)
}

/// The last major class of each section.
const SECTION_ENDS: [(&str, &str); 20] = [
    ("05", "A"),
    ("12", "B"),
    ("43", "C"),
    ("46", "D"),
    ("50", "E"),
    ("52", "F"),
    ("60", "G"),
    ("62", "H"),
    ("65", "I"),
    ("69", "J"),
    ("70", "K"),
    ("72", "L"),
    ("75", "M"),
    ("79", "N"),
    ("82", "O"),
    ("83", "P"),
    ("85", "Q"),
    ("90", "R"),
    ("96", "S"),
    ("97", "T"),
];

const fn entry(code: &'static str, chinese: &'static str, english: &'static str) -> Entry {
    Entry { code, chinese, english }
}

/// T1, classification kind (资源分类).
pub const CLASSIFICATIONS: Table = Table {
    chinese: "资源分类",
    english: "classification kind",
    entries: &[
        entry("001", "主题", "Topic"),
        entry("002", "行业", "Industry"),
        entry("003", "机构", "Organization"),
        entry("004", "应用场景", "Application"),
    ],
};

/// T2, origin (来源).
pub const ORIGINS: Table = Table {
    chinese: "来源",
    english: "origin",
    entries: &[
        entry("001", "原始取得", "original acquisition"),
        entry("002", "收集取得", "acquisition by collection"),
        entry("003", "交易取得", "acquisition by trade"),
        entry("004", "其他", "other"),
    ],
};

/// T3, delivery form (交付形式). 005 covers data components (数据元件, 数据件).
pub const DELIVERY_FORMS: Table = Table {
    chinese: "交付形式",
    english: "delivery form",
    entries: &[
        entry("001", "数据集", "dataset"),
        entry("002", "API产品", "API product"),
        entry("003", "数据应用", "data application"),
        entry("004", "数据报告", "data report"),
        entry("005", "数据对象", "data object"),
        entry("006", "其他", "other"),
    ],
};

/// T4, update frequency (更新频率).
pub const UPDATE_FREQUENCIES: Table = Table {
    chinese: "更新频率",
    english: "update frequency",
    entries: &[
        entry("001", "实时", "realTime"),
        entry("002", "每日", "daily"),
        entry("003", "每周", "weekly"),
        entry("004", "每月", "monthly"),
        entry("005", "每季度", "quarterly"),
        entry("006", "每半年", "semiannual"),
        entry("007", "每年", "annual"),
        entry("008", "不定期", "irregular"),
        entry("009", "历史数据", "historical"),
    ],
};

/// T5, quality (质量等级), best first.
pub const QUALITY_LEVELS: Table = Table {
    chinese: "质量等级",
    english: "quality level",
    entries: &[
        entry("001", "A级", "levelA"),
        entry("002", "B级", "levelB"),
        entry("003", "C级", "levelC"),
        entry("004", "D级", "levelD"),
    ],
};

/// T6, security (安全等级), least sensitive first.
pub const SECURITY_LEVELS: Table = Table {
    chinese: "安全等级",
    english: "security level",
    entries: &[
        entry("001", "公开", "level1"),
        entry("002", "内部", "level2"),
        entry("003", "敏感", "level3"),
        entry("004", "机密", "level4"),
        entry("005", "绝密", "level5"),
    ],
};

/// T7, service (服务类型).
pub const SERVICE_TYPES: Table = Table {
    chinese: "服务类型",
    english: "service type",
    entries: &[
        entry("001", "目录服务", "catalogService"),
        entry("002", "API服务", "apiService"),
        entry("003", "文件服务", "fileService"),
        entry("004", "数据库服务", "databaseService"),
        entry("005", "分析服务", "analyticsService"),
    ],
};

/// Topics (主题): a letter and four digits; a major class ends in 0000, a middle class in 00.
pub const TOPICS: Table = Table {
    chinese: "主题",
    english: "topic",
    entries: &[
        entry("A0000", "基础资源", "basic resources"),
        entry("A0100", "人口", "population"),
        entry("A0200", "法人单位", "legal entities"),
        entry("A0300", "自然资源和空间地理", "natural resources and geography"),
        entry("A0400", "宏观经济", "macroeconomy"),
        entry("A0500", "科技教育", "science and education"),
        entry("B0000", "行业资源", "industry resources"),
        entry("B0100", "农业农村", "agriculture and rural affairs"),
        entry("B0200", "工业和信息化", "industry and information technology"),
        entry("B0300", "交通运输", "transport"),
        entry("B0400", "商业贸易", "commerce and trade"),
        entry("B0500", "金融保险", "finance and insurance"),
        entry("C0000", "社会民生", "society and livelihood"),
        entry("C0100", "教育文化", "education and culture"),
        entry("C0200", "医疗卫生", "health care"),
        entry("C0300", "社会保障", "social security"),
        entry("C0400", "住房城建", "housing and urban construction"),
        entry("C0500", "生态环境", "ecology and environment"),
        entry("D0000", "政务服务", "government services"),
        entry("D0100", "行政审批", "administrative approval"),
        entry("D0200", "公共服务", "public services"),
        entry("D0300", "监管执法", "supervision and law enforcement"),
        entry("D0400", "信用", "credit"),
        entry("D0500", "应急管理", "emergency management"),
    ],
};

/// Application scenarios (应用场景), coded as [`TOPICS`].
pub const SCENARIOS: Table = Table {
    chinese: "应用场景",
    english: "application scenario",
    entries: &[
        entry("S0000", "政府治理", "government"),
        entry("S0100", "宏观决策", "macro decisions"),
        entry("S0200", "执法监管", "law enforcement and supervision"),
        entry("S0300", "公共管理", "public administration"),
        entry("S0400", "社会治理", "social governance"),
        entry("T0000", "民生服务", "services for people"),
        entry("T0100", "教育服务", "education services"),
        entry("T0200", "医疗健康", "medical care and health"),
        entry("T0300", "社会保障", "social security"),
        entry("T0400", "文化旅游", "culture and tourism"),
        entry("U0000", "产业发展", "industrial development"),
        entry("U0100", "产业规划", "industrial planning"),
        entry("U0200", "科技创新", "science and technology innovation"),
        entry("U0300", "市场监测", "market monitoring"),
        entry("U0400", "投资分析", "investment analysis"),
        entry("V0000", "安全应急", "safety and emergencies"),
        entry("V0100", "公共安全", "public safety"),
        entry("V0200", "自然灾害", "natural disasters"),
        entry("V0300", "事故灾难", "accidents"),
        entry("V0400", "社会安全", "social security incidents"),
    ],
};

/// The 34 units at province level of GB/T 2260-2007, by the first two digits of a region code.
pub const PROVINCES: Table = Table {
    chinese: "省级行政区划",
    english: "province",
    entries: &[
        entry("11", "北京市", "Beijing"),
        entry("12", "天津市", "Tianjin"),
        entry("13", "河北省", "Hebei"),
        entry("14", "山西省", "Shanxi"),
        entry("15", "内蒙古自治区", "Inner Mongolia"),
        entry("21", "辽宁省", "Liaoning"),
        entry("22", "吉林省", "Jilin"),
        entry("23", "黑龙江省", "Heilongjiang"),
        entry("31", "上海市", "Shanghai"),
        entry("32", "江苏省", "Jiangsu"),
        entry("33", "浙江省", "Zhejiang"),
        entry("34", "安徽省", "Anhui"),
        entry("35", "福建省", "Fujian"),
        entry("36", "江西省", "Jiangxi"),
        entry("37", "山东省", "Shandong"),
        entry("41", "河南省", "Henan"),
        entry("42", "湖北省", "Hubei"),
        entry("43", "湖南省", "Hunan"),
        entry("44", "广东省", "Guangdong"),
        entry("45", "广西壮族自治区", "Guangxi"),
        entry("46", "海南省", "Hainan"),
        entry("50", "重庆市", "Chongqing"),
        entry("51", "四川省", "Sichuan"),
        entry("52", "贵州省", "Guizhou"),
        entry("53", "云南省", "Yunnan"),
        entry("54", "西藏自治区", "Xizang"),
        entry("61", "陕西省", "Shaanxi"),
        entry("62", "甘肃省", "Gansu"),
        entry("63", "青海省", "Qinghai"),
        entry("64", "宁夏回族自治区", "Ningxia"),
        entry("65", "新疆维吾尔自治区", "Xinjiang"),
        entry("71", "台湾省", "Taiwan"),
        entry("81", "香港特别行政区", "Hong Kong"),
        entry("82", "澳门特别行政区", "Macao"),
    ],
};

/// The 20 sections (门类) of GB/T 4754-2017; [`industry_section`] finds the one of a major class.
pub const INDUSTRY_SECTIONS: Table = Table {
    chinese: "行业门类",
    english: "industry section",
    entries: &[
        entry("A", "农、林、牧、渔业", "Agriculture, forestry, animal husbandry and fishery"),
        entry("B", "采矿业", "Mining"),
        entry("C", "制造业", "Manufacturing"),
        entry("D", "电力、热力、燃气及水生产和供应业", "Electricity, heat, gas and water supply"),
        entry("E", "建筑业", "Construction"),
        entry("F", "批发和零售业", "Wholesale and retail"),
        entry("G", "交通运输、仓储和邮政业", "Transport, storage and post"),
        entry("H", "住宿和餐饮业", "Accommodation and catering"),
        entry(
            "I",
            "信息传输、软件和信息技术服务业",
            "Information transmission, software and information technology services",
        ),
        entry("J", "金融业", "Finance"),
        entry("K", "房地产业", "Real estate"),
        entry("L", "租赁和商务服务业", "Leasing and business services"),
        entry("M", "科学研究和技术服务业", "Scientific research and technical services"),
        entry("N", "水利、环境和公共设施管理业", "Water conservancy, environment and public facilities"),
        entry("O", "居民服务、修理和其他服务业", "Resident services, repair and other services"),
        entry("P", "教育", "Education"),
        entry("Q", "卫生和社会工作", "Health and social work"),
        entry("R", "文化、体育和娱乐业", "Culture, sports and entertainment"),
        entry(
            "S",
            "公共管理、社会保障和社会组织",
            "Public administration, social security and social organisations",
        ),
        entry("T", "国际组织", "International organisations"),
    ],
};
