//! The names in an expression: variables, fields and functions. The interpreter has no type check, so the
//! tree is walked when the policy is loaded, and every name that leads nowhere is refused with its place.

use std::collections::BTreeMap;

use cel_interpreter::IdedExpr;
use cel_interpreter::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SelectExpr, operators,
};

use crate::functions::{self, ORDERED, signatures};
use crate::shapes::{self, Shape};
use crate::words::nearest;

/// The names that an expression may use besides the variables that are always there.
#[derive(Debug, Default)]
pub struct Scope<'a> {
    /// The setting `params`.
    pub params: Option<&'a serde_json::Value>,
    /// The entries of `variables` that stand before the expression. None where there are none to use.
    pub variables: Option<BTreeMap<String, Shape<'a>>>,
}

/// The result of a walk.
#[derive(Debug)]
pub struct Names<'a> {
    /// The mistakes: the node, and the sentence.
    pub mistakes: Vec<(u64, String)>,
    /// The fields of the expression's value.
    pub shape: Shape<'a>,
    /// Whether a part of the value depends on keys that only a review or the settings have.
    pub has_keys: bool,
    /// The strings that are written in the expression.
    pub texts: Vec<String>,
}

/// Walks an expression.
pub fn check<'a>(tree: &IdedExpr, scope: &Scope<'a>) -> Names<'a> {
    let mut walk =
        Walk { scope, bound: Vec::new(), mistakes: Vec::new(), has_keys: false, texts: Vec::new() };
    let shape = walk.shape(tree);
    Names { mistakes: walk.mistakes, shape, has_keys: walk.has_keys, texts: walk.texts }
}

struct Walk<'s, 'a> {
    scope: &'s Scope<'a>,
    /// The variables of the macros around the node.
    bound: Vec<(String, Shape<'a>)>,
    mistakes: Vec<(u64, String)>,
    has_keys: bool,
    texts: Vec<String>,
}

impl<'a> Walk<'_, 'a> {
    fn mistake(&mut self, node: u64, message: String) {
        self.mistakes.push((node, message));
    }

    fn all<'e>(&mut self, trees: impl IntoIterator<Item = &'e IdedExpr>) {
        for tree in trees {
            self.shape(tree);
        }
    }

    fn shape(&mut self, tree: &IdedExpr) -> Shape<'a> {
        match &tree.expr {
            Expr::Literal(LiteralValue::String(text)) => {
                self.texts.push(text.inner().to_owned());
                Shape::Text
            }
            Expr::Literal(literal) => Shape::Other(match literal {
                LiteralValue::Boolean(_) => "bool",
                LiteralValue::Int(_) => "int",
                LiteralValue::UInt(_) => "uint",
                LiteralValue::Double(_) => "double",
                LiteralValue::Bytes(_) => "bytes",
                LiteralValue::Null | LiteralValue::String(_) => "null",
            }),
            Expr::Unspecified => Shape::Any,
            Expr::Ident(name) => self.variable(tree.id, name),
            Expr::Select(select) => self.select(tree.id, select),
            Expr::Call(call) => self.call(tree.id, call),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::List(list) => {
                self.all(&list.elements);
                Shape::Any
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.all([&entry.key, &entry.value]);
                    }
                }
                Shape::Any
            }
            Expr::Struct(message) => {
                self.mistake(tree.id, format!("there is no message `{}`: write a map", message.type_name));
                Shape::Any
            }
        }
    }

    fn variable(&mut self, node: u64, name: &str) -> Shape<'a> {
        if let Some((_, shape)) = self.bound.iter().rev().find(|(bound, _)| bound == name) {
            return *shape;
        }
        let name = name.trim_start_matches('.');
        if let Some((_, shape)) = shapes::VARIABLES.iter().find(|(variable, _)| *variable == name) {
            return *shape;
        }
        if shapes::TYPES.contains(&name) {
            return Shape::Any;
        }
        let message = match (name, self.scope.params) {
            ("params", Some(params)) => return Shape::Json(params),
            ("params", None) => "the settings have no `params`".to_owned(),
            ("variables", _) => "write `variables.NAME`".to_owned(),
            _ => match shapes::ABSENT.iter().find(|(absent, _)| *absent == name) {
                Some((_, reason)) => format!("there is no `{name}`: {reason}"),
                None => self.no_variable(name),
            },
        };
        self.mistake(node, message);
        Shape::Any
    }

    fn no_variable(&self, name: &str) -> String {
        let always = shapes::VARIABLES.iter().map(|(variable, _)| *variable).chain(["params", "variables"]);
        match nearest(name, always.clone().chain(self.bound.iter().map(|(bound, _)| bound.as_str()))) {
            Some(near) => format!("there is no `{name}`: write `{near}`"),
            None => format!("there is no `{name}`: there are {}", always.collect::<Vec<_>>().join(", ")),
        }
    }

    fn select(&mut self, node: u64, select: &SelectExpr) -> Shape<'a> {
        if let Expr::Ident(name) = &select.operand.expr
            && name == "variables"
        {
            return self.named(node, select);
        }
        let value = self.shape(&select.operand);
        self.field(node, value, &select.operand, &select.field)
    }

    /// Returns the shape of an entry of `variables`.
    fn named(&mut self, node: u64, select: &SelectExpr) -> Shape<'a> {
        let Some(variables) = &self.scope.variables else {
            self.mistake(node, "`variables` are made after `matchConditions`".to_owned());
            return Shape::Any;
        };
        if let Some(shape) = variables.get(&select.field)
            && !select.test
        {
            return *shape;
        }
        let message = if select.test {
            "`variables` are always there: leave `has` out".to_owned()
        } else {
            let near = nearest(&select.field, variables.keys().map(String::as_str));
            let hint = near.map_or("one before this expression".to_owned(), |near| format!("write `{near}`"));
            format!("no variable is called `{}`: {hint}", select.field)
        };
        self.mistake(node, message);
        Shape::Any
    }

    /// Returns the shape of a field, which has to be there in some images or reviews.
    fn field(&mut self, node: u64, value: Shape<'a>, operand: &IdedExpr, field: &str) -> Shape<'a> {
        if matches!(value, Shape::Any) {
            self.has_keys = true;
        }
        if let Some(shape) = value.field(field) {
            return shape;
        }
        let subject = path(operand).map_or("the value".to_owned(), |path| format!("`{path}`"));
        self.mistake(node, format!("{subject} has no `{field}`: {}", value.fields()));
        Shape::Any
    }

    fn call(&mut self, node: u64, call: &CallExpr) -> Shape<'a> {
        let name = call.func_name.as_str();
        // The name of an operator is no identifier.
        if name.contains(|part: char| !part.is_alphanumeric() && part != '_' && part != '.') {
            return self.operator(node, name, &call.args);
        }
        let Some(target) = &call.target else {
            self.all(&call.args);
            self.function(node, name.trim_start_matches('.'), false, &call.args);
            return if name == "image" { shapes::IMAGE } else { Shape::Any };
        };
        let qualified = path(target).map(|path| format!("{path}.{name}"));
        if let Some(qualified) = qualified
            && signatures(false).iter().any(|(known, ..)| *known == qualified)
        {
            self.all(&call.args);
            self.function(node, &qualified, false, &call.args);
            return Shape::Any;
        }
        if let Some(path) = path(target)
            && functions::absent(&format!("{path}.{name}")).is_some()
            && !signatures(true).iter().any(|(known, ..)| *known == name)
        {
            self.all(&call.args);
            self.function(node, &format!("{path}.{name}"), true, &call.args);
            return Shape::Any;
        }
        let shape = self.shape(target);
        if functions::MACROS.contains(&name) {
            self.mistake(node, format!("`{name}` goes through one variable: write `{name}(x, …)`"));
            return Shape::Any;
        }
        self.all(&call.args);
        self.function(node, name, true, &call.args);
        // An optional value has the fields of the value in it.
        if ["orValue", "or", "value"].contains(&name) { shape } else { Shape::Any }
    }

    fn operator(&mut self, node: u64, name: &str, arguments: &[IdedExpr]) -> Shape<'a> {
        match (name, arguments) {
            (operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT, [value, key]) => {
                let shape = self.shape(value);
                if let Expr::Literal(LiteralValue::String(text)) = &key.expr {
                    self.texts.push(text.inner().to_owned());
                    return self.field(node, shape, value, text.inner());
                }
                self.shape(key);
                self.has_keys = true;
                match shape {
                    Shape::List(element) => *element,
                    _ => Shape::Any,
                }
            }
            (operators::ADD, [left, right]) => match (self.shape(left), self.shape(right)) {
                (shape @ Shape::List(_), _) => shape,
                _ => Shape::Any,
            },
            (operators::EQUALS | operators::NOT_EQUALS, [left, right]) => {
                if let (Shape::Text, Shape::Other(kind)) | (Shape::Other(kind), Shape::Text) =
                    (self.shape(left), self.shape(right))
                {
                    let hint = if kind == "null" { ": ask with `has`" } else { "" };
                    self.mistake(node, format!("a string never equals a value of type {kind}{hint}"));
                }
                Shape::Any
            }
            _ => {
                self.all(arguments);
                Shape::Any
            }
        }
    }

    fn function(&mut self, node: u64, name: &str, member: bool, arguments: &[IdedExpr]) {
        let Some((_, least, most)) = signatures(member).iter().find(|(known, ..)| *known == name) else {
            let other = signatures(!member).iter().any(|(known, ..)| *known == name);
            let near = || nearest(name, signatures(member).iter().map(|(known, ..)| *known));
            let hint = match (other, functions::absent(name)) {
                (true, _) if member => format!(": write `{name}(…)`"),
                (true, _) => format!(": write `x.{name}(…)`"),
                (_, Some(reason)) => format!(": {reason}"),
                _ => near().map_or(String::new(), |near| format!(": write `{near}`")),
            };
            self.mistake(node, format!("there is no function `{name}`{hint}"));
            return;
        };
        if !(*least..=*most).contains(&arguments.len()) {
            let wanted = if least == most { least.to_string() } else { format!("{least} or {most}") };
            let found = arguments.len();
            self.mistake(node, format!("`{name}` wants {wanted} arguments, found {found}"));
        }
        if ["matches", "find", "findAll"].contains(&name)
            && let Some(Expr::Literal(LiteralValue::String(regex))) =
                arguments.get(usize::from(!member)).map(|regex| &regex.expr)
            && let Err(error) = functions::check_regex(regex.inner())
        {
            self.mistake(node, crate::message(&error));
        }
    }

    fn comprehension(&mut self, comprehension: &ComprehensionExpr) -> Shape<'a> {
        let range = self.shape(&comprehension.iter_range);
        self.shape(&comprehension.accu_init);
        let outside = self.bound.len();
        self.bound.push((comprehension.accu_var.clone(), Shape::Any));
        self.bound.push((comprehension.iter_var.clone(), range.element()));
        self.all([&comprehension.loop_cond, &comprehension.loop_step, &comprehension.result]);
        self.bound.truncate(outside);
        // `filter` keeps elements.
        match &comprehension.loop_step.expr {
            Expr::Call(step) if step.func_name == operators::CONDITIONAL && keeps(step, comprehension) => {
                range
            }
            _ => Shape::Any,
        }
    }
}

/// Returns whether a step `CONDITION ? @result + [x] : @result` adds the element itself.
fn keeps(step: &CallExpr, comprehension: &ComprehensionExpr) -> bool {
    let Some(Expr::Call(add)) = step.args.get(1).map(|added| &added.expr) else { return false };
    let Some(Expr::List(list)) = add.args.get(1).map(|list| &list.expr) else { return false };
    let [IdedExpr { expr: Expr::Ident(name), .. }] = list.elements.as_slice() else { return false };
    *name == comprehension.iter_var
}

/// Returns a variable and the fields selected of it, as they are written.
fn path(tree: &IdedExpr) -> Option<String> {
    match &tree.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => Some(format!("{}.{}", path(&select.operand)?, select.field)),
        Expr::Call(call) if call.func_name == operators::OPT_SELECT => path(call.args.first()?),
        _ => None,
    }
}

/// Puts [`ORDERED`] around the range of each comprehension.
pub fn order(tree: &mut IdedExpr) {
    match &mut tree.expr {
        Expr::Literal(_) | Expr::Unspecified | Expr::Ident(_) => {}
        Expr::Select(select) => order(&mut select.operand),
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|target| order(target));
            call.args.iter_mut().for_each(order);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(order),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    order(&mut entry.key);
                    order(&mut entry.value);
                }
            }
        }
        Expr::Struct(message) => {
            for entry in &mut message.entries {
                if let EntryExpr::StructField(field) = &mut entry.expr {
                    order(&mut field.value);
                }
            }
        }
        Expr::Comprehension(comprehension) => {
            let parts = comprehension.as_mut();
            for part in [&mut parts.accu_init, &mut parts.loop_cond, &mut parts.loop_step, &mut parts.result]
            {
                order(part);
            }
            order(&mut parts.iter_range);
            if matches!(parts.iter_range.expr, Expr::List(_)) {
                return;
            }
            let range = std::mem::take(&mut parts.iter_range);
            parts.iter_range = IdedExpr {
                id: range.id,
                expr: Expr::Call(CallExpr { func_name: ORDERED.to_owned(), target: None, args: vec![range] }),
            };
        }
    }
}
