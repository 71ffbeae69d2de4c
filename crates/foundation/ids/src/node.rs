//! The identifier of a node or connector.

use crate::ascii::text_traits;
use crate::core32::Core32;
use crate::entity::EntityCode;
use crate::error::{Field, IdError};
use crate::foreign::Foreign;
use crate::kinds::NodeType;
use crate::segment::Segment;

/// The identifier of a node, 32 characters (NDI-TR-2025-04 section 4.2): type(1) + entity(18) + segment(4) + random(8)
/// + check(1). The check character is MOD 37-2 and may be `*`.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct NodeId {
    core: Core32,
    node_type: NodeType,
}

impl NodeId {
    /// Reads a node id whose every part is in order.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let id = Self::read(text)?;
        id.core.verify(Field::NodeId)?;
        Ok(id)
    }

    /// Reads a node id of another registry: well formed, the check character may fail.
    pub fn parse_foreign(text: &str) -> Result<Foreign<Self>, IdError> {
        let id = Self::read(text)?;
        let verified = id.core.verify(Field::NodeId);
        Ok(Foreign::receive(text, id, verified))
    }

    /// Makes a new id for a node of `entity`, assigned by the function node of `segment`. The random bytes separate
    /// repeated applications; they need not be secret.
    pub fn mint(node_type: NodeType, entity: &EntityCode, segment: &Segment, random: [u8; 16]) -> Self {
        Self { core: Core32::mint(node_type.character(), entity, segment, random), node_type }
    }

    /// The 32 characters.
    pub fn as_str(&self) -> &str {
        self.core.as_str()
    }

    /// The kind of node.
    pub fn node_type(&self) -> NodeType {
        self.node_type
    }

    /// The entity that runs the node.
    pub fn entity(&self) -> EntityCode {
        self.core.entity()
    }

    /// The region or industry of the function node: the node itself, or the one that assigned the id.
    pub fn segment(&self) -> Segment {
        self.core.segment()
    }

    fn read(text: &str) -> Result<Self, IdError> {
        let field = Field::NodeId;
        let core = Core32::read(text, field)?;
        let found = core.kind();
        let node_type = NodeType::from_character(found).ok_or(IdError::Character {
            field,
            position: 1,
            found,
            expected: "a node type, 1 to 5",
        })?;
        Ok(Self { core, node_type })
    }
}

text_traits!(NodeId);
