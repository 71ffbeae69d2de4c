use std::fmt;

/// The language of an explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    /// English.
    English,
    /// 简体中文.
    Chinese,
}

/// What a party does with a product: the actions of the digital contract dictionary (table C.5).
///
/// Spellings are the dictionary's own, misprints included; see [`Action::wire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// 转换
    Transform,
    /// 匿名化
    Anonymize,
    /// 脱敏
    Desensitize,
    /// 访问
    Access,
    /// 读取
    Read,
    /// 复制
    Reproduce,
    /// 存储
    Storage,
    /// 下载
    Download,
    /// 加工
    Process,
    /// 联合开发
    JointDevelop,
    /// 分发
    Distribute,
    /// 计算
    Compute,
    /// 授权使用
    GrantUse,
    /// 策略传递, printed `plicyTransmit` in the dictionary
    PolicyTransmit,
    /// 交付
    Delivery,
    /// 交易: transfer of ownership
    Sell,
    /// 行为记录发送
    LogRecordSend,
    /// 删除
    Delete,
    /// 异常提醒
    Alert,
    /// 补偿
    Compensate,
    /// 扩展操作: in the dictionary, but without a meaning a node could enforce, so no rule may name it
    ExpansionItem,
}

impl Action {
    /// Every action, in the order of the dictionary.
    pub const ALL: [Action; 21] = [
        Action::Transform,
        Action::Anonymize,
        Action::Desensitize,
        Action::Access,
        Action::Read,
        Action::Reproduce,
        Action::Storage,
        Action::Download,
        Action::Process,
        Action::JointDevelop,
        Action::Distribute,
        Action::Compute,
        Action::GrantUse,
        Action::PolicyTransmit,
        Action::Delivery,
        Action::Sell,
        Action::LogRecordSend,
        Action::Delete,
        Action::Alert,
        Action::Compensate,
        Action::ExpansionItem,
    ];

    /// The dictionary's spelling, as written on the wire: `plicyTransmit` keeps its misprint.
    pub fn wire(self) -> &'static str {
        match self {
            Action::Transform => "transform",
            Action::Anonymize => "anonymize",
            Action::Desensitize => "desensitize",
            Action::Access => "access",
            Action::Read => "read",
            Action::Reproduce => "reproduce",
            Action::Storage => "storage",
            Action::Download => "download",
            Action::Process => "process",
            Action::JointDevelop => "jointDevelop",
            Action::Distribute => "distribute",
            Action::Compute => "compute",
            Action::GrantUse => "grantUse",
            Action::PolicyTransmit => "plicyTransmit",
            Action::Delivery => "delivery",
            Action::Sell => "sell",
            Action::LogRecordSend => "logRecordSend",
            Action::Delete => "delete",
            Action::Alert => "alert",
            Action::Compensate => "compensate",
            Action::ExpansionItem => "expansionItem",
        }
    }

    /// Reads the dictionary's spelling, and the corrected `policyTransmit`. Letter case matters.
    pub fn parse(text: &str) -> Option<Action> {
        if text == "policyTransmit" {
            return Some(Action::PolicyTransmit);
        }
        Action::ALL.into_iter().find(|action| action.wire() == text)
    }

    /// What the action is, in words for people.
    pub fn words(self, language: Language) -> &'static str {
        let (english, chinese) = match self {
            Action::Transform => ("transform", "转换"),
            Action::Anonymize => ("anonymize", "匿名化"),
            Action::Desensitize => ("desensitize", "脱敏"),
            Action::Access => ("access", "访问"),
            Action::Read => ("read", "读取"),
            Action::Reproduce => ("copy", "复制"),
            Action::Storage => ("store", "存储"),
            Action::Download => ("download", "下载"),
            Action::Process => ("process", "加工"),
            Action::JointDevelop => ("develop jointly", "联合开发"),
            Action::Distribute => ("distribute", "分发"),
            Action::Compute => ("compute", "计算"),
            Action::GrantUse => ("grant use to others", "授权使用"),
            Action::PolicyTransmit => ("pass the policy on", "策略传递"),
            Action::Delivery => ("take delivery", "交付"),
            Action::Sell => ("sell", "交易"),
            Action::LogRecordSend => ("send usage records", "行为记录发送"),
            Action::Delete => ("delete", "删除"),
            Action::Alert => ("raise alerts", "异常提醒"),
            Action::Compensate => ("compensate", "补偿"),
            Action::ExpansionItem => ("do other things", "扩展操作"),
        };
        match language {
            Language::English => english,
            Language::Chinese => chinese,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.wire())
    }
}

/// How a constraint compares what is given with its value (dictionary of operators, after ODRL 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// `01` eq
    Equal,
    /// `02` gt
    Greater,
    /// `03` gteq
    GreaterOrEqual,
    /// `04` hasPart: what is given contains the value
    HasPart,
    /// `05` isA: what is given is of that type, or lies in that network
    IsA,
    /// `06` isAllOf
    IsAllOf,
    /// `07` isAnyOf
    IsAnyOf,
    /// `08` isNoneOf
    IsNoneOf,
    /// `09` isPartOf: what is given lies inside the value
    IsPartOf,
    /// `10` lt
    Less,
    /// `11` lteq
    LessOrEqual,
    /// `12` neq
    NotEqual,
}

impl Operator {
    /// Every operator, in the order of the dictionary's codes.
    pub const ALL: [Operator; 12] = [
        Operator::Equal,
        Operator::Greater,
        Operator::GreaterOrEqual,
        Operator::HasPart,
        Operator::IsA,
        Operator::IsAllOf,
        Operator::IsAnyOf,
        Operator::IsNoneOf,
        Operator::IsPartOf,
        Operator::Less,
        Operator::LessOrEqual,
        Operator::NotEqual,
    ];

    /// The two-digit code, `01` to `12`, as written on the wire.
    pub fn wire(self) -> &'static str {
        self.spellings().0
    }

    /// The name in letters, `eq` to `neq`.
    pub fn name(self) -> &'static str {
        self.spellings().1
    }

    /// Reads the code or the name. Letter case and the leading zero matter.
    pub fn parse(text: &str) -> Option<Operator> {
        Operator::ALL.into_iter().find(|operator| operator.wire() == text || operator.name() == text)
    }

    fn spellings(self) -> (&'static str, &'static str) {
        match self {
            Operator::Equal => ("01", "eq"),
            Operator::Greater => ("02", "gt"),
            Operator::GreaterOrEqual => ("03", "gteq"),
            Operator::HasPart => ("04", "hasPart"),
            Operator::IsA => ("05", "isA"),
            Operator::IsAllOf => ("06", "isAllOf"),
            Operator::IsAnyOf => ("07", "isAnyOf"),
            Operator::IsNoneOf => ("08", "isNoneOf"),
            Operator::IsPartOf => ("09", "isPartOf"),
            Operator::Less => ("10", "lt"),
            Operator::LessOrEqual => ("11", "lteq"),
            Operator::NotEqual => ("12", "neq"),
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a constraint limits. Only names this node enforces exist here; every other name is refused on reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConstraintName {
    /// An instant before or after which use is allowed.
    Time,
    /// An interval of time, or a window that recurs every day.
    TimeWindow,
    /// How many times in all.
    Count,
    /// The address from which the call comes.
    NetworkAddress,
    /// The region of the caller's attested registration (GB/T 2260-2007, first two or four digits).
    Region,
    /// 主体: the node or the entity that asks. A local name; the dictionary has none.
    Party,
    /// 客体: the product asked for. A local name; the dictionary has none.
    Product,
}

impl ConstraintName {
    /// Every enforced name.
    pub const ALL: [ConstraintName; 7] = [
        ConstraintName::Time,
        ConstraintName::TimeWindow,
        ConstraintName::Count,
        ConstraintName::NetworkAddress,
        ConstraintName::Region,
        ConstraintName::Party,
        ConstraintName::Product,
    ];

    /// The spelling in documents and clause names.
    pub fn wire(self) -> &'static str {
        match self {
            ConstraintName::Time => "time",
            ConstraintName::TimeWindow => "timeWindow",
            ConstraintName::Count => "count",
            ConstraintName::NetworkAddress => "networkAddress",
            ConstraintName::Region => "region",
            ConstraintName::Party => "party",
            ConstraintName::Product => "product",
        }
    }

    /// Reads the spelling of a document. Letter case matters.
    pub fn parse(text: &str) -> Option<ConstraintName> {
        ConstraintName::ALL.into_iter().find(|name| name.wire() == text)
    }

    /// The operators that mean something for this constraint; every other one is refused.
    pub fn operators(self) -> &'static [Operator] {
        use Operator::{Equal, Greater, GreaterOrEqual, IsA, IsAnyOf, IsNoneOf, IsPartOf, Less, LessOrEqual};
        match self {
            ConstraintName::Time => &[Greater, GreaterOrEqual, Less, LessOrEqual],
            ConstraintName::TimeWindow => &[Equal, IsPartOf, IsAnyOf, IsNoneOf],
            ConstraintName::Count => &[Less, LessOrEqual, Equal],
            ConstraintName::NetworkAddress => &[Equal, IsA, IsAnyOf, IsNoneOf],
            ConstraintName::Region => &[Equal, IsAnyOf, IsNoneOf, IsPartOf],
            ConstraintName::Party => &[Equal, IsAnyOf, IsNoneOf],
            ConstraintName::Product => &[Equal, IsAnyOf],
        }
    }
}

impl fmt::Display for ConstraintName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.wire())
    }
}
