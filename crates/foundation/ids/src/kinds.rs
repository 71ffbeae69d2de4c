//! The type characters that open node and data identifiers.

/// The kind of a node, the first character of a [`NodeId`](crate::NodeId) (NDI-TR-2025-04 section 4.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum NodeType {
    /// 全域功能节点: the network-wide registrar.
    Global,
    /// 区域功能节点: the registrar of a region.
    Regional,
    /// 行业功能节点: the registrar of an industry.
    Industry,
    /// 业务节点: a circulation platform.
    Service,
    /// 接入连接器: an organisation's own node.
    Connector,
}

impl NodeType {
    /// Every node type, in the order of its character.
    pub const ALL: [Self; 5] = [Self::Global, Self::Regional, Self::Industry, Self::Service, Self::Connector];

    /// The type character, `'1'` to `'5'`.
    pub fn character(self) -> char {
        match self {
            Self::Global => '1',
            Self::Regional => '2',
            Self::Industry => '3',
            Self::Service => '4',
            Self::Connector => '5',
        }
    }

    /// The node type of a type character.
    pub fn from_character(character: char) -> Option<Self> {
        Self::ALL.into_iter().find(|candidate| candidate.character() == character)
    }

    /// The name in the national documents.
    pub fn chinese(self) -> &'static str {
        match self {
            Self::Global => "全域功能节点",
            Self::Regional => "区域功能节点",
            Self::Industry => "行业功能节点",
            Self::Service => "业务节点",
            Self::Connector => "接入连接器",
        }
    }

    /// The name in English, lower case.
    pub fn english(self) -> &'static str {
        match self {
            Self::Global => "global function node",
            Self::Regional => "regional function node",
            Self::Industry => "industry function node",
            Self::Service => "service node",
            Self::Connector => "connector",
        }
    }

    /// Whether nodes of this type register others and assign codes (功能节点).
    pub fn is_function_node(self) -> bool {
        match self {
            Self::Global | Self::Regional | Self::Industry => true,
            Self::Service | Self::Connector => false,
        }
    }
}

/// The kind of a catalog record, the first character of a [`DataId`](crate::DataId) (NDI-TR-2025-04 section 4.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum DataType {
    /// 数据产品: what is offered.
    Product,
    /// 数据资源: what products are made from.
    Resource,
}

impl DataType {
    /// Both data types, in the order of their character.
    pub const ALL: [Self; 2] = [Self::Product, Self::Resource];

    /// The type character, `'6'` or `'7'`.
    pub fn character(self) -> char {
        match self {
            Self::Product => '6',
            Self::Resource => '7',
        }
    }

    /// The data type of a type character.
    pub fn from_character(character: char) -> Option<Self> {
        Self::ALL.into_iter().find(|candidate| candidate.character() == character)
    }

    /// The name in the national documents.
    pub fn chinese(self) -> &'static str {
        match self {
            Self::Product => "数据产品",
            Self::Resource => "数据资源",
        }
    }

    /// The name in English, lower case.
    pub fn english(self) -> &'static str {
        match self {
            Self::Product => "data product",
            Self::Resource => "data resource",
        }
    }
}
